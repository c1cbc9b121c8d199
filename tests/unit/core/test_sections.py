"""Named sections in one blob: canonical, and damage is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core import IntegrityError
from tapehouse.core.sections import pack_sections, unpack_sections

SECTIONS = st.dictionaries(st.text(max_size=10), st.binary(max_size=50), max_size=6)


@given(sections=SECTIONS)
@settings(deadline=None)
def test_sections_come_back_and_their_order_does_not_matter(sections: dict[str, bytes]) -> None:
    blob = pack_sections(sections)
    assert unpack_sections(blob) == sections
    assert pack_sections(dict(reversed(sections.items()))) == blob


@given(sections=SECTIONS)
@settings(deadline=None)
def test_a_cut_or_lengthened_blob_is_refused(sections: dict[str, bytes]) -> None:
    blob = pack_sections(sections)
    for damaged in (*(blob[:length] for length in range(len(blob))), blob + b"x"):
        with pytest.raises(IntegrityError):
            unpack_sections(damaged)


def test_a_name_that_is_no_text_is_refused() -> None:
    blob = pack_sections({"ab": b""}).replace(b"ab", b"\xff\xff")
    with pytest.raises(IntegrityError, match="damaged"):
        unpack_sections(blob)
