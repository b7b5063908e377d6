"""What happens in the demo, act by act: one good release, then a fault upstream, a bad release, and the world itself."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import andon
from andon.core.clocks import DAY_US
from andon.core.verdicts import Answer
from andon.demo import bikes, training
from andon.demo.faults import FAULTS
from andon.demo.replay import World
from andon.demo.script import FAULTY, FIX_AFTER_DAYS, GATE, LAUNCH, LONGEST_FAULT_DAYS, SHIFTED, TRAINING
from andon.demo.telling import Teller
from andon.incidents import Incident, IncidentsState
from andon.incidents.journal import state_of
from andon.store import Store, streams
from andon.tracking import completeness_of

NOTICED_WITHIN_DAYS = {"upstream": 4, "release": 21, "world": 120}
"""How long each kind of event may go unnoticed; in a shortened demo, one that had less time than that is no failure."""
CAUSES = {"upstream": "upstream", "release": "the release", "world": "the world", "unknown": "not known"}


@dataclass
class Staged:
    """An event of the script, and when it began."""

    what: str
    began_us: int
    cause: str


class Acts:
    """The demo's script and its memory of what came of it."""

    def __init__(self, store: Store, *, seed: int, fault: str) -> None:
        self.teller = Teller()
        self.store = store
        self.seed = seed
        self.history = bikes.History.load()
        self.world = World(store, self.history)
        self.fault_words, self.fault = FAULTS[fault]
        self.staged: list[Staged] = []
        self.snapshot = ""
        self.evaluation = ""
        self.model = ""
        self.fixed_us: int | None = None
        self.retrained: list[int] = []
        self.end_us = 0
        self.random = random.Random(seed)  # noqa: S311 - which seed a retrained model gets is no secret

    # --- act 0: the line, up to a release in production

    def make_the_first_release(self) -> None:
        """Data, run, model, gate, release, deploy."""
        tell = self.teller
        tell.heading("1. A tracked run, a model, a gate, a release")
        trained = training.trained(self.history.table(*(bikes.day_us(day) for day in TRAINING)), self.seed)
        if trained["dropped"]:
            tell.say(f"data validation refused {', '.join(trained['dropped'])}: {trained['said']}; trained without")
        gate_table = self.history.table(*(bikes.day_us(day) for day in GATE))
        self.evaluation = str(andon.register_dataset("bikes-gate", gate_table, event_time=bikes.EVENT_TIME).address)
        self.snapshot, self.model, run = trained["snapshot"], trained["model"], trained["run"]
        complete = completeness_of(self.store, run.removeprefix("run:"))
        missing = f"; missing: {', '.join(part.name for part in complete.parts if not part.present)}" if complete.score < 1 else ""
        tell.say(f"{run} made {self.model} from {self.snapshot}; completeness {complete.score:.0%}{missing}")
        made = training.release(self.model, self.snapshot, self.evaluation, why="the first release")
        tell.verdicts([item.verdict for item in made.judged])
        andon.deploy(made.address, why="launch", event_time=LAUNCH)
        tell.say(f"{made.address} ({made.digest[:15]}) pins model, code, environment and data, and holds service:bikes@production")

    # --- the months that follow

    def live(self, until: str) -> None:
        """Replay the months, with what goes wrong in them."""
        start_us, end_us = bikes.day_us(LAUNCH), bikes.day_us(until)
        self.end_us = end_us
        self.teller.heading(f"2. Live from {LAUNCH}: every hour is a request over HTTP, every label comes a day later")
        self.staged.append(Staged("the world: riders grow, the model does not", start_us, "world"))
        with self.teller.progress((end_us - start_us) // DAY_US) as advance:

            def each_day(day_us: int, events: list[streams.Event]) -> None:
                self._hear(events)
                self._script(day_us)
                advance(bikes.date_of(day_us))

            try:
                self.world.live(start_us, end_us, each_day)
            finally:
                self.world.close()

    def _script(self, day_us: int) -> None:
        """What goes wrong, by date: the only thing here that is written in advance."""
        date = bikes.date_of(day_us)
        if date == FAULTY:
            self.world.fault = self.fault
            self.staged.append(Staged(f"upstream: {self.fault_words}", day_us, "upstream"))
            self.teller.say(f"{date}  (the script: {self.fault_words})")
        if self.world.fault is not None and self._fixed(day_us):
            self.world.fault, self.fixed_us = None, day_us
            self.teller.say(f"{date}  (the script: upstream has mended it)")
        if date == SHIFTED:
            self._ship_the_shifted_release(day_us)

    def _fixed(self, day_us: int) -> bool:
        """The owners upstream mend it two days after they are told, or by themselves after twelve."""
        told = [incident.opened_us for incident in self._state().incidents if incident.cause == "upstream"]
        began = self.staged[-1].began_us
        return bool(told and day_us >= told[0] + FIX_AFTER_DAYS * DAY_US) or day_us >= began + LONGEST_FAULT_DAYS * DAY_US

    def _ship_the_shifted_release(self, day_us: int) -> None:
        tell, date = self.teller, bikes.date_of(day_us)
        tell.say(f"{date}  (the script: a new release whose transform takes one from every hour)")
        offline, naive = training.scored_offline(self.model, self.evaluation)
        tell.say(f"{date}  scored offline, without its transform: mae {offline:.2f} against last week's {naive:.2f}; nobody would object")
        made = training.release(self.model, self.snapshot, self.evaluation, code="shifted", why="hours counted from 1", strict=False)
        tell.verdicts([item.verdict for item in made.judged])
        said = {Answer.NO: "refused", Answer.UNDECIDED: "not let through", Answer.GO: "let through"}[made.answer]
        tell.say(f"{date}  the gate, scoring through the serving transform: {made.address} is {said}")
        if made.answer is not Answer.GO:
            andon.waive(made.address, why="to see whether production would have noticed too")
            tell.say(f"{date}  ana waives the gate, to see whether production would notice too")
        andon.deploy(made.address, why="hours counted from 1", event_time=day_us)
        self.staged.append(Staged(f"bad release: {made.address}", day_us, "release"))

    def _hear(self, events: list[streams.Event]) -> None:
        """Tell what Andon decided, and do what only people can."""
        tell = self.teller
        for event in events:
            date, body = bikes.date_of(event.event_us or event.at_us), event.body
            if event.type in ("open", "escalate"):
                word = "incident" if event.type == "open" else "the incident's cause is now"
                tell.alarm(date, f"{word} {body['incident']}: {CAUSES[body['cause']]}. {event.reason}")
            elif event.type == "block-training":
                tell.alarm(date, f"training is blocked; the owners upstream are told ({', '.join(body['suspects'])})")
            elif event.type == "rollback":
                tell.alarm(date, f"rolled back: {body['release']} -> {body['to']}")
            elif event.type == "resolve":
                tell.alarm(date, f"{body['incident']} is resolved: {event.reason}")
            elif event.type == "recommend-retrain":
                tell.alarm(date, f"retraining is recommended: {event.reason}")
                self._retrain(event)

    def _retrain(self, event: streams.Event) -> None:
        now_us = event.event_us or event.at_us
        tell, date = self.teller, bikes.date_of(now_us)
        made = training.retrain(
            self.store,
            self.history.table(*(bikes.day_us(day) for day in (TRAINING[0], GATE[1]))),
            now_us,
            self.random.randrange(1000),
            f"incident:{event.body['incident']}",
        )
        tell.verdicts([item.verdict for item in made.judged])
        andon.deploy(made.address, why=f"incident:{event.body['incident']}: retrained", event_time=now_us)
        self.retrained.append(now_us)
        tell.say(f"{date}  the challenger passed the gate: {made.address} holds production")

    # --- the end

    def sum_up(self, elapsed_s: float) -> int:
        """The timeline; returns 0 when every staged event that had time was noticed and rightly answered, and nothing else was."""
        state = self._state()
        rows, matched = [], set[str]()
        for staged in sorted(self.staged, key=lambda one: one.began_us):
            incident = self._answer_to(staged, state)
            if incident is None:
                said = "not noticed" if self._had_time(staged) else "not noticed so far"
                rows.append((bikes.date_of(staged.began_us), staged.what, said, "-", "-"))
                continue
            matched.add(incident.id)
            windows = (incident.opened_us - staged.began_us) // DAY_US
            noticed = f"{bikes.date_of(incident.opened_us)}, after {windows} day{'' if windows == 1 else 's'}"
            rows.append((bikes.date_of(staged.began_us), staged.what, noticed, CAUSES[incident.cause], self._done(incident)))
        for incident in state.incidents:
            if incident.id not in matched:
                date = bikes.date_of(incident.opened_us)
                rows.append((date, "nothing was staged", f"{date} ({incident.id})", CAUSES[incident.cause], self._done(incident)))
        self.teller.table("What happened", ("began", "event", "noticed", "cause named", "answered"), rows)
        answered = self.world.caller.answered if self.world.caller is not None else 0
        self.teller.say(f"{answered} requests answered, none failed; {elapsed_s:.0f} s")
        right = all(self._is_right(staged, state) for staged in self.staged)
        return 0 if right and len(matched) == len(state.incidents) else 1

    def _is_right(self, staged: Staged, state: IncidentsState) -> bool:
        incident = self._answer_to(staged, state)
        return incident.cause == staged.cause if incident is not None else not self._had_time(staged)

    def _had_time(self, staged: Staged) -> bool:
        return self.end_us - staged.began_us > NOTICED_WITHIN_DAYS[staged.cause] * DAY_US

    def _answer_to(self, staged: Staged, state: IncidentsState) -> Incident | None:
        """The first incident after an event began, of those that opened before the next staged event (for the world: of its own cause)."""
        later = [one.began_us for one in self.staged if one.began_us > staged.began_us]
        until = min(later, default=2**62)
        for incident in state.incidents:
            if staged.cause == "world":
                if incident.cause == "world":
                    return incident
            elif staged.began_us < incident.opened_us <= until and incident.cause != "world":
                return incident
        return None

    def _done(self, incident: Incident) -> str:
        if incident.advice == "rollback":
            return "rolled back" if incident.acted_us else "rollback recommended"
        if incident.advice == "fix-upstream":
            return "training blocked, upstream told, no rollback" if incident.acted_us else "upstream told"
        if incident.advice == "retrain":
            return "retrained through the gate, no rollback" if self.retrained else "retraining recommended"
        return "waited"

    def say_what_next(self, folder: Path, url: str, *, stays: bool) -> None:
        """Where to look and what to try."""
        home = f"--home {_short(folder)}"
        state = self._state()
        incident = next((one.id for one in state.incidents if one.cause == "release"), "bikes-1")
        self.teller.heading("3. Look around")
        self.teller.say(f"{url:<58} the board{'' if stays else ', once `andon up` runs again'}")
        for command, why in (
            (f"andon up {home}", "the board, for as long as you like"),
            (f"andon history service:bikes {home}", "what ran when, and who moved it"),
            (f"andon show incident:{incident} {home}", "who pulled the cord, and why"),
            (f"andon show release:bikes@1 {home}", "everything that was in production"),
            (f"andon diff release:bikes@1 release:bikes@2 {home}", "what the bad release changed"),
            (f"andon lineage model:bikes@1 {home}", "what it was made from, what was made from it"),
            (f'andon cord bikes --why "riders complain" {home}', "pull the cord yourself"),
        ):
            self.teller.say(f"{command:<58} {why}")

    def _state(self) -> IncidentsState:
        return state_of(self.store, bikes.SERVICE)


def _short(folder: Path) -> str:
    try:
        return str(folder.relative_to(Path.cwd()))
    except ValueError:
        return str(folder)
