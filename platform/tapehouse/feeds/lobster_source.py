"""Where LOBSTER data lies: a MESSAGE and a BOOK file, or one zip that holds both; and what their names say.

A name such as `AMZN_2012-06-21_34200000_57600000_message_5.csv` is the only place where the day stands: the times in
the file count from midnight in New York.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tapehouse.core.errors import DecodeError, MissingError, UsageError
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.feeds.csv_rows import CsvRows

MESSAGE_COLUMNS = 6
_ZIP_MAGIC = b"PK\x03\x04"
LEVELS_MAX = 200  # LOBSTER sells no more; one byte of a cell holds the depth
_NAME = re.compile(
    r"(?P<symbol>[A-Za-z0-9.\-]+)_(?P<day>\d{4}-\d{2}-\d{2})_(?P<start>\d+)_(?P<end>\d+)"
    r"_(?P<role>message|orderbook)_(?P<levels>\d+)\.csv$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LobsterName:
    """What a file's name says."""

    symbol: str
    day: date
    role: str  # `message` or `orderbook`
    levels: int

    @property
    def midnight_ns(self) -> int:
        """Midnight of that day in New York, UTC ns."""
        try:
            zone = ZoneInfo("America/New_York")
        except ZoneInfoNotFoundError as error:
            raise MissingError("the time zone America/New_York is not known here", hint="install tzdata") from error
        midnight = datetime(self.day.year, self.day.month, self.day.day, tzinfo=zone)
        return int(midnight.timestamp()) * NS_PER_SECOND


def parse_name(name: str) -> LobsterName | None:
    """A file's name, read; None where it is not LOBSTER's."""
    match = _NAME.search(name)
    if match is None:
        return None
    try:
        day = date.fromisoformat(match["day"])
    except ValueError:
        return None
    symbol = match["symbol"].removeprefix("excerpt_")
    return LobsterName(symbol=symbol, day=day, role=match["role"], levels=int(match["levels"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    path: Path
    inside: str  # the member's name in a zip, else empty
    name: LobsterName
    size_bytes: int

    @property
    def title(self) -> str:
        return f"{self.path.name}/{self.inside}" if self.inside else self.path.name


class LobsterSource:
    """One instrument's day on disk.

    Args:
        paths: A zip, or the MESSAGE and the BOOK file in any order.

    Raises:
        MissingError: A file is not there.
        DecodeError: It is no zip, lacks one of the two files, or a name does not say the day.
        UsageError: There are not one or two paths.
    """

    def __init__(self, paths: Sequence[Path | str]) -> None:
        files = [Path(path) for path in paths]
        for path in files:
            if not path.is_file():
                raise MissingError("there is no such file", subject=str(path))
        if len(files) == 1:
            members = _members_of_zip(files[0])
            subject = files[0].name
        elif len(files) == 2:
            members = [_member_of_file(path) for path in files]
            subject = " and ".join(path.name for path in files)
        else:
            raise UsageError(f"LOBSTER data is one or two files, not {len(files)}", hint="name MESSAGE BOOK, or ZIP")
        by_role = {member.name.role: member for member in members}
        if len(members) != 2 or len(by_role) != 2:
            found = ", ".join(member.name.role for member in members) or "neither"
            raise DecodeError(f"a message and an orderbook file belong together, here is {found}", subject=subject)
        self.message, self.book = by_role["message"], by_role["orderbook"]
        self.name = self.message.name
        if (self.name.symbol, self.name.day) != (self.book.name.symbol, self.book.name.day):
            raise DecodeError("the two files are of different instruments or days", subject=subject)
        self.levels = self.book.name.levels
        if not 1 <= self.levels <= LEVELS_MAX:
            raise DecodeError(f"{self.levels} levels; 1 to {LEVELS_MAX} are possible", subject=self.book.title)

    @contextmanager
    def open(self) -> Iterator[tuple[CsvRows, CsvRows]]:
        """The rows of both files, from the beginning; times are ns since midnight."""
        with ExitStack() as stack:
            readers = []
            for member, columns in ((self.message, MESSAGE_COLUMNS), (self.book, 4 * self.levels)):
                try:
                    if member.inside:
                        archive = stack.enter_context(zipfile.ZipFile(member.path))
                        stream = stack.enter_context(archive.open(member.inside))
                    else:
                        stream = stack.enter_context(open(member.path, "rb", buffering=0))
                except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
                    raise DecodeError(f"it cannot be opened: {error}", subject=member.title) from error
                times = member is self.message
                readers.append(CsvRows(stream, member.title, columns=columns, times=times))
            yield readers[0], readers[1]


def _member_of_file(path: Path) -> _Member:
    name = parse_name(path.name)
    if name is None:
        raise DecodeError(
            "the file's name does not say symbol, day, kind and levels",
            subject=path.name,
            hint="keep LOBSTER's own names, such as AMZN_2012-06-21_34200000_57600000_message_5.csv",
        )
    return _Member(path=path, inside="", name=name, size_bytes=path.stat().st_size)


def _members_of_zip(path: Path) -> list[_Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        with open(path, "rb") as file:
            cut_off = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
        hint = "name both files, MESSAGE BOOK, or LOBSTER's own zip"
        raise DecodeError(
            "the zip is cut off or damaged" if cut_off else f"it is no zip: {error}",
            subject=path.name,
            hint="download it again" if cut_off else hint,
        ) from error
    members = []
    for info in infos:
        name = parse_name(info.filename)
        if name is not None:
            members.append(_Member(path=path, inside=info.filename, name=name, size_bytes=info.file_size))
    return members
