"""The guard stops every clock and every source of chance that it claims to see, and nothing else."""

from __future__ import annotations

import contextlib
import datetime
import gc
import math
import os
import random
import secrets
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import date
from datetime import datetime as Moment  # noqa: N812
from pathlib import Path
from random import randint, shuffle
from time import perf_counter_ns as tick_count
from time import time as now

import numpy as np
import pytest

from tapehouse.core.errors import StrategyError
from tapehouse.engine import Engine, Intent, Submit, View
from tapehouse.engine.guard import Guard, NoGuard
from tests.support.bench import EngineBench, fold, level, quick_watcher, shared_day

FILE = Path(__file__).name
HELD = random.Random(7)


class Turn:
    """A strategy whose turn is any function."""

    name = "turn"

    def __init__(self, act: Callable[[], object], *, swallow: bool = False) -> None:
        self._act = act
        self._swallow = swallow

    def on_market(self, view: View) -> list[Intent]:
        if not self._swallow:
            self._act()
            return []
        with contextlib.suppress(BaseException):
            self._act()
        return [Submit(side=0, price=view.tick, size=1)]

    def state(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        pass


CLOCKS = {
    "time.time": time.time,
    "time.time_ns": time.time_ns,
    "time.monotonic": time.monotonic,
    "time.monotonic_ns": time.monotonic_ns,
    "time.perf_counter": time.perf_counter,
    "time.perf_counter_ns": time.perf_counter_ns,
    "time.process_time": time.process_time,
    "time.process_time_ns": time.process_time_ns,
    "time.thread_time": time.thread_time,
    "time.thread_time_ns": time.thread_time_ns,
    "time.clock_gettime": lambda: time.clock_gettime(time.CLOCK_REALTIME),
    "time.clock_gettime_ns": lambda: time.clock_gettime_ns(time.CLOCK_REALTIME),
    "time.localtime": time.localtime,
    "time.gmtime": time.gmtime,
    "time.ctime": time.ctime,
    "time.asctime": time.asctime,
    "time.strftime": lambda: time.strftime("%H"),
    "time.sleep": lambda: time.sleep(0),
    "os.times": os.times,
    "datetime.now": datetime.datetime.now,
    "datetime.utcnow": datetime.datetime.utcnow,
    "datetime.today": datetime.datetime.today,
    "date.today": datetime.date.today,
}
CHANCE = {
    "random.random": random.random,
    "random.Random.randint": lambda: random.randint(1, 6),
    "random.Random.uniform": lambda: random.uniform(1, 6),
    "random.Random.gauss": lambda: random.gauss(0, 1),
    "random.Random.choice": lambda: random.choice("abc"),
    "random.Random.shuffle": lambda: random.shuffle([1, 2, 3]),
    "random.Random.sample": lambda: random.sample(range(9), 2),
    "random.getrandbits": lambda: random.getrandbits(8),
    "random.Random.seed": lambda: random.seed(7),
    "random.Random.__init__": lambda: random.Random(7),
    "random.SystemRandom.random": lambda: random.SystemRandom().random(),
    "os.urandom": lambda: os.urandom(8),
    "os.getrandom": lambda: os.getrandom(8),
    "uuid.uuid1": uuid.uuid1,
    "uuid.uuid4": uuid.uuid4,
    "secrets.token_bytes": secrets.token_bytes,
    "secrets.token_hex": secrets.token_hex,
    "secrets.randbelow": lambda: secrets.randbelow(9),
    "random.Random.choice ": lambda: secrets.choice("abc"),
}
IMPORTED = {
    "time.time": now,
    "time.perf_counter_ns": tick_count,
    "datetime.now": Moment.now,
    "date.today": date.today,
    "random.Random.randint": lambda: randint(1, 6),
    "random.Random.shuffle": lambda: shuffle([1, 2]),
    "random.random": HELD.random,  # one that was made outside of any turn
}
FORBIDDEN = [*CLOCKS.items(), *CHANCE.items(), *IMPORTED.items()]


def taken(strategy: Turn, *, guard: bool = True) -> EngineBench:
    bench = EngineBench(strategy, guard=guard)
    bench.feed(level("buy", 99, 5))
    return bench


@pytest.fixture(autouse=True)
def hook_is_put_back() -> Iterator[None]:
    """Whatever profile hook there was is there again afterwards."""
    before = sys.getprofile()

    def other(*_: object) -> None:
        pass

    sys.setprofile(other)
    try:
        yield
        assert sys.getprofile() is other
    finally:
        sys.setprofile(before)


@pytest.mark.parametrize("swallow", [False, True], ids=["raises", "swallowed"])
@pytest.mark.parametrize(("name", "act"), FORBIDDEN)
def test_what_no_replay_can_repeat_is_stopped_and_named(name: str, act: Callable[[], object], swallow: bool) -> None:
    with pytest.raises(StrategyError, match=f"it called {name.strip()} ") as caught:
        taken(Turn(lambda: act(), swallow=swallow))
    line = Turn.on_market.__code__.co_firstlineno
    where, _, number = caught.value.position.rpartition(" ")
    assert where == f"{FILE} line"
    assert int(number) > line
    assert caught.value.subject == "strategy turn"
    assert "view.now" in caught.value.hint


@pytest.mark.parametrize("swallow", [False, True])
@pytest.mark.parametrize(
    "act",
    [
        np.random.random,
        np.random.normal,
        lambda: np.random.seed(7),
        lambda: np.random.shuffle([1, 2, 3]),
        lambda: np.random.randint(0, 2**31, 624),  # as many draws as bring its place back to where it was
        lambda: np.random.choice([1, 2]),
    ],
)
def test_numpys_global_generator_is_watched(act: Callable[[], object], swallow: bool) -> None:
    np.random.seed(2012)
    with pytest.raises(StrategyError, match=r"drew from numpy\.random") as caught:
        taken(Turn(act, swallow=swallow))
    assert caught.value.position == f"{FILE} line {Turn.on_market.__code__.co_firstlineno}"


def test_a_fresh_generator_of_numpy_is_stopped_where_it_draws_its_seed() -> None:
    with pytest.raises(StrategyError, match=r"it called random\.SystemRandom\.getrandbits") as caught:
        taken(Turn(lambda: np.random.default_rng().random()))
    assert caught.value.position.startswith(f"{FILE} line ")


@pytest.fixture
def collections() -> Iterator[list[float]]:
    """When garbage was collected, as a library that reads a clock at each collection notes it."""
    seen: list[float] = []

    def note(*_: object) -> None:
        seen.append(time.perf_counter())

    was_enabled = gc.isenabled()
    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)
    (gc.enable if was_enabled else gc.disable)()


@pytest.mark.parametrize("enabled", [True, False])
def test_what_a_collection_of_garbage_runs_is_not_the_strategys(collections: list[float], enabled: bool) -> None:
    during: list[int] = []

    def litter() -> None:
        before = len(collections)
        kept = [[number] for number in range(20_000)]  # many times what a collection waits for
        during.append(len(collections) - before)
        kept.clear()

    gc.enable()
    taken(Turn(litter), guard=False)
    assert during.pop() > 0, "the control: without a guard there are collections"
    (gc.enable if enabled else gc.disable)()
    taken(Turn(litter))
    assert during == [0]
    assert gc.isenabled() == enabled, "as it was before"


@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState, np.random.PCG64])
def test_a_generator_of_numpy_that_a_strategy_holds_is_refused(make: Callable[[int], object]) -> None:
    holding = Turn(lambda: None)
    holding.chance = make(7)  # type: ignore[attr-defined]
    with pytest.raises(StrategyError, match=f"it holds a {type(make(7)).__name__} of numpy.random in 'chance'"):
        Engine(holding)

    late = Turn(lambda: setattr(late, "chance", make(7)))
    with pytest.raises(StrategyError, match=r"it holds a|it called random\.SystemRandom"):  # some draw first
        taken(late)


def test_a_generator_of_numpy_in_the_strategys_module_is_refused(tmp_path: Path) -> None:
    source = "import numpy as np\nCHANCE = np.random.default_rng(7)\ndef on_market(self, view):\n    return []\n"
    module: dict[str, object] = {}
    exec(compile(source, str(tmp_path / "chancy.py"), "exec"), module)
    chancy = type("Chancy", (Turn,), {"name": "chancy", "on_market": module["on_market"]})
    with pytest.raises(StrategyError, match=r"it holds a Generator of numpy\.random in 'CHANCE'") as caught:
        Engine(chancy(lambda: None))
    assert caught.value.position == "chancy.py line 3"


def test_a_strategy_cannot_take_the_hook_away_quietly() -> None:
    with pytest.raises(StrategyError, match="took away the profile hook"):
        taken(Turn(lambda: sys.setprofile(None)))


def test_what_a_strategy_raises_itself_is_told_and_a_violation_comes_first() -> None:
    def both() -> None:
        try:
            time.time()
        finally:
            raise KeyError("mine")

    with pytest.raises(StrategyError, match=r"it called time\.time"):
        taken(Turn(both))
    with pytest.raises(StrategyError, match="KeyError: 'mine'"):
        taken(Turn(lambda: {}["mine"]))  # type: ignore[misc]
    with pytest.raises(StrategyError, match="SystemExit"):
        taken(Turn(sys.exit))


def test_what_is_in_the_state_is_watched_too() -> None:
    strategy = Turn(lambda: None)
    strategy.state = lambda: str(time.time()).encode()  # type: ignore[method-assign]
    with pytest.raises(StrategyError, match=r"it called time\.time"):
        EngineBench(strategy).engine.digest()


def test_a_turn_may_compute() -> None:
    def compute() -> None:
        values = sorted([3.0, 1.0, 2.0], key=lambda value: -value)
        values.append(math.sqrt(sum(values)) + math.log(2))
        assert np.mean(np.array(values)) > 0
        assert datetime.datetime.fromtimestamp(1_000_000_000, datetime.UTC).isoformat()
        assert date(2026, 1, 5).weekday() == 0
        assert time.struct_time((2026, 1, 5, 0, 0, 0, 0, 5, 0)).tm_year == 2026
        assert uuid.uuid5(uuid.NAMESPACE_DNS, "tape").hex
        assert " ".join(map(str, range(3))) == "0 1 2"

    taken(Turn(compute))


def test_the_guard_is_for_turns_alone() -> None:
    """The engine's own process goes on reading clocks between two turns."""
    bench = taken(Turn(lambda: None))
    assert time.time() > 0
    assert random.random() >= 0
    assert np.random.random() >= 0
    bench.feed(level("buy", 99, 6))


def test_the_guard_changes_no_decision() -> None:
    _, report, cells, _ = shared_day(quick_watcher, cells=1_000)
    for guard in (True, False):
        engine = Engine(quick_watcher(), guard=guard)
        fold(engine, cells, [])
        assert engine.digests() == report.digests


class Clocky(Turn):
    """Decides by the wall clock, as no strategy may."""

    name = "clocky"

    def on_market(self, view: View) -> list[Intent]:
        return [Submit(side=0, price=view.tick * (1 + time.perf_counter_ns() % 1_000), size=1)]


def test_without_the_guard_the_clock_gets_through_and_the_digests_differ() -> None:
    """What the guard is good for: the same tape, the same strategy, and two runs that differ."""
    _, _, cells, _ = shared_day(quick_watcher, cells=1_000)
    digests = set()
    for _ in range(2):
        engine = Engine(Clocky(lambda: None), guard=False)
        fold(engine, cells, [])
        digests.add(engine.digests().decision)
    assert len(digests) == 2
    with pytest.raises(StrategyError, match="perf_counter_ns"):
        fold(Engine(Clocky(lambda: None)), cells, [])


def test_no_guard_lets_everything_through() -> None:
    for _, act in FORBIDDEN:
        with NoGuard():
            act()
    taken(Turn(time.time), guard=False)


def test_a_guard_is_good_for_many_turns() -> None:
    guard = Guard(Turn(lambda: None))
    for _ in range(3):
        with pytest.raises(StrategyError), guard:
            time.time()
        with guard:
            math.sqrt(2)
