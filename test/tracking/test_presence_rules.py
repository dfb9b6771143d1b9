"""When an object is VISIBLE, OCCLUDED or LOST: each rule on frames that are written down. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.types import ObjectState
from sam2_ros.tracking.visibility import Observation, Presence

LETTERS = {ObjectState.VISIBLE: "V", ObjectState.OCCLUDED: "O", ObjectState.LOST: "L"}
SEEN = Observation(True, 0.1, 0.9)
MISSED = Observation(False, 0.1, 0.9)  # the decoder draws a mask all the same
GONE = Observation(False, 0.0, 0.9)
HUGE = Observation(False, 0.99, 0.9)  # it fills the frame
KINDS = {"s": SEEN, "m": MISSED, "-": GONE, "h": HUGE, "e": Observation(True, 0.0, 0.9)}


def prompted(config: TrackerConfig, area: float = 0.1, frame: int = 0) -> Presence:
    return Presence(-1).prompted(frame, 10 * frame, area, True, config)


def lived(presence: Presence, kinds: Iterable[str], config: TrackerConfig) -> tuple[str, Presence]:
    """The states on the frames that follow, a letter each; stamps are ten times the frames."""
    states = ""
    for kind in kinds:
        frame = presence.frame + 1
        presence = presence.after(frame, 10 * frame, KINDS[kind], config)
        states += LETTERS[presence.state]
    return states, presence


@pytest.mark.parametrize(
    ("kinds", "states"),
    [
        ("ssmmms", "VVVVOO"),  # missed on three frames in a row; seen on two in a row
        ("mmsmmsmm", "VVVVVVVV"),  # what was missed before does not count
        ("mmmss", "VVOOV"),
        ("mmmsmss", "VVOOOOV"),
        ("-", "O"),  # there is no mask that could be shown
        ("m-m", "VOO"),
        ("mhm", "VOO"),  # nor one to believe
        ("e", "O"),  # an object without a pixel is not seen
        ("---" + "e" * 3, "OOOOOL"),
        ("-" * 5 + "sss", "OOOOOLVV"),
        ("-" * 6 + "sss", "OOOOOLLVV"),
    ],
)
def test_states_follow_what_is_seen(kinds: str, states: str) -> None:
    config = TrackerConfig(visible_after=2, occluded_after=3, lost_after=5)
    assert lived(prompted(config), kinds, config)[0] == states


def test_usual_objects_change_at_once() -> None:
    config = TrackerConfig(lost_after=2)
    states, presence = lived(prompted(config), "smss---s", config)
    assert states == "VOVVOOLV"
    assert (presence.first_seen, presence.last_seen, presence.last_seen_frame, presence.lost_since) == (0, 80, 8, -1)


def test_a_changed_setting_counts_from_the_next_frame_on() -> None:
    patient, strict = TrackerConfig(occluded_after=10), TrackerConfig(occluded_after=2)
    states, presence = lived(prompted(patient), "mmm", patient)
    assert states == "VVV" and lived(presence, "m", strict)[0] == "O"


def test_it_is_lost_since_the_frame_on_which_it_became_lost() -> None:
    config = TrackerConfig(lost_after=2)
    states, presence = lived(prompted(config), "---", config)
    assert states == "OOL" and presence.lost_since == 3
    assert presence.passed(4, 40, config).passed(5, 50, config).lost_since == 3
    assert lived(presence, "s", config)[1].lost_since == -1
    assert lived(presence, "s-", config)[1].lost_since == -1, "OCCLUDED"
    assert lived(presence, "s---", config)[1].lost_since == 7
    first = Presence.awaiting(0, config)
    assert first.lost_since == 0 == first.passed(1, 10, config).lost_since


def test_lost_objects_are_searched_for_at_times_and_others_on_each_frame() -> None:
    config = TrackerConfig(lost_after=2, search_every=4, visible_after=3)
    _, occluded = lived(prompted(config), "-", config)
    _, lost = lived(occluded, "--", config)
    assert [occluded.due(frame, config) for frame in range(2, 6)] == [True] * 4
    assert [frame for frame in range(4, 20) if lost.due(frame, config)] == [7, 11, 15, 19]
    states, glimpsed = lived(lost, "s", config)
    assert states == "L" and glimpsed.due(5, config), "something was seen"


def test_a_prompt_decides_at_once() -> None:
    config = TrackerConfig(visible_after=3, occluded_after=3, lost_after=2)
    _, lost = lived(prompted(config), "----", config)
    again = lost.prompted(5, 50, 0.2, True, config)
    assert (again.state, again.last_seen, again.doubted, again.prompted_area) == (ObjectState.VISIBLE, 50, False, 0.2)
    assert lived(again, "mmm", config)[0] == "VVO", "it counts as seen"
    nowhere = lost.prompted(5, 50, 0.0, True, config)
    assert (nowhere.state, nowhere.seen_run, nowhere.doubted) == (ObjectState.LOST, 0, False)
    assert lived(nowhere, "ssm", config)[0] == "LLL", "nor has it been seen since"
    missed = prompted(config).prompted(0, 0, 0.0, True, config)
    assert (missed.state, missed.unseen_run, missed.areas) == (ObjectState.OCCLUDED, 1, ())


def test_what_a_prompt_said_of_its_size() -> None:
    config = TrackerConfig()
    assert Presence(-1).prompted(0, 0, 0.1, True, config).areas == (0.1,)
    assert Presence(-1).prompted(0, 0, 0.1, False, config).areas == (), "clicks may have meant a part"


def test_areas_are_those_of_the_newest_sightings_and_are_forgotten_with_time() -> None:
    config = TrackerConfig(explosion_frames=2)
    presence = prompted(config, 0.3)
    for frame, area in ((1, 0.1), (2, 0.2)):
        presence = presence.after(frame, frame, Observation(True, area, 0.9), config)
    assert presence.areas == (0.1, 0.2)
    doubted = presence.after(3, 3, Observation(True, 0.99, 0.9), config)
    assert doubted.doubted and doubted.areas == (0.1, 0.2)
    _, gone = lived(doubted, "-", config)
    assert not gone.doubted and gone.areas == (0.2,) and lived(gone, "-", config)[1].areas == ()
    assert lived(presence, "h", config)[1].doubted is False, "an absent object's mask is not believed anyway"
    assert not doubted.passed(4, 4, config).doubted


def test_a_mask_explodes_beyond_the_least_of_its_newest_areas() -> None:
    config = TrackerConfig(explosion_factor=4, explosion_iou=0.7, explosion_frames=3)
    presence = prompted(config, 0.1).after(1, 1, Observation(True, 0.2, 0.9), config)

    def doubts(area: float, iou: float = 0.6, recognised: bool = False, of: Presence = presence) -> bool:
        return of.after(2, 2, Observation(True, area, iou, recognised, score=5.0), config).doubted

    assert doubts(0.41) and not doubts(0.39) and not doubts(0.41, iou=0.7) and not doubts(0.41, recognised=True)
    assert not doubts(0.41, of=Presence(-1)), "it was not seen yet"
    off = TrackerConfig(explosion_factor=0)
    assert not presence.after(2, 2, Observation(True, 0.9, 0.1), off).doubted


def test_a_speck_of_what_it_was_is_doubted() -> None:
    """Less than a fiftieth of its usual area: the largest one, less a twentieth for every sighting since."""
    config = TrackerConfig(max_area=1)

    def least(presence: Presence) -> float:
        """Smallest area that is believed, to a hundred-thousandth."""
        areas = (step * 1e-5 for step in range(1, 1000))
        return next(area for area in areas if not presence.after(9, 9, Observation(True, area, 0.9), config).doubted)

    def seen(presence: Presence, area: float, present: bool = True) -> Presence:
        return presence.after(presence.frame + 1, 0, Observation(present, area, 0.9), config)

    large = prompted(config, 0.2)
    assert least(large) == pytest.approx(0.004) == least(prompted(config).prompted(0, 0, 0.2, False, config))
    assert least(seen(large, 0.1)) == pytest.approx(0.0038)
    assert least(seen(seen(large, 0.1), 0.05)) == pytest.approx(0.00361)
    assert least(seen(large, 0.3)) == pytest.approx(0.006) and least(seen(large, 0.195)) == pytest.approx(0.0039)
    for unseen in (seen(large, 0.1, present=False), seen(large, 0.0), seen(large, 0.001)):
        assert least(unseen) == pytest.approx(0.004), "only sightings count"
    assert least(large.prompted(1, 1, 0.0, True, config)) == pytest.approx(0.004), "it is not here now"
    assert least(large.prompted(1, 1, 0.02, True, config)) == pytest.approx(0.0004), "a prompt says how large it is"
    assert least(Presence(-1)) == pytest.approx(1e-5), "nobody knows yet"


def test_who_leaps_or_swells_must_be_surely_recognised() -> None:
    """Farther than its size, or to more than twice its usual area of 0.1, with a judgement below 3."""
    presence = prompted(TrackerConfig(explosion_factor=0))

    def doubts(
        area: float,
        score: float,
        leap: float = 0.0,
        recognised: bool = True,
        of: Presence = presence,
        close: bool = True,
    ) -> bool:
        observation = Observation(True, area, 0.9, recognised, score, 0.9, close, leap)
        return of.after(1, 10, observation, TrackerConfig(explosion_factor=0)).doubted

    assert doubts(0.1, 2.9, leap=1.1) and not doubts(0.1, 3.1, leap=1.1) and not doubts(0.1, 0.1, leap=0.9)
    assert doubts(0.21, 2.9) and not doubts(0.21, 3.1) and not doubts(0.19, 0.1)
    assert not doubts(0.21, 2.9, leap=1.1, recognised=False), "the object score of other models is no judgement"
    assert not doubts(0.21, 2.9, leap=1.1, close=False), "in the whole frame, small things are judged low"
    assert not doubts(0.21, 2.9, of=Presence(-1)), "how large it is, nobody knows yet"
    hidden = presence.after(1, 10, Observation(True, 0.1, 0.9, True, 1.0, 0.7, True, 2.0), TrackerConfig())
    assert hidden.state is ObjectState.OCCLUDED and hidden.usual_area == 0.1


def test_the_reference_doubts_nothing() -> None:
    config = TrackerConfig(reference_policy=True)
    presence = prompted(config)
    leaping = Observation(True, 0.1, 0.9, True, 1.0, 0.7, True, 2.0)
    for observation in (Observation(True, 0.99, 0.9), Observation(True, 0.9, 0.1), leaping):
        after = presence.after(1, 10, observation, config)
        assert not after.doubted and after.state is ObjectState.VISIBLE


def test_a_new_presence_is_neither_awaited_nor_doubted() -> None:
    config = TrackerConfig(lost_after=3)
    new = Presence(-1, absent_since=4)
    assert not new.awaited and not new.doubted
    states = "".join(LETTERS[new.passed(frame, 0, config).state] for frame in range(4, 10))
    assert states == "OOOOLL", "counted from the frame on which it was added"
