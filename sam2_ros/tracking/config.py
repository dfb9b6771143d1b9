"""The tracker's settings. Every one of them is a parameter of the node (``tracker.*``) and documented there."""

from __future__ import annotations

from dataclasses import dataclass

from sam2_ros.tracking.policies import POLICIES

# Which of its three candidates a single click means: the one of best predicted IoU (as in SAM 2), the one that a moved
# threshold changes least, or, of those that are predicted nearly as good as the best, the largest or the smallest.
CLICK_CANDIDATES = ("best", "stable", "largest", "smallest")

# What a tracker can't change while it lives, and why.
FIXED = {
    "max_objects": "the memory bank is allocated for it",
    "prompted_slots": "the memory bank is allocated for it",
    "recent_slots": "the memory bank is allocated for it",
    "history": "the stored frames are allocated for it",
    "reference_policy": "what is remembered already was made by the other rules",
}


@dataclass(frozen=True)
class TrackerConfig:
    """Settings of :class:`sam2_ros.tracking.Tracker`; all but those in :data:`FIXED` may change while it lives.

    Raises:
        ValueError: a value outside its range, with the range.
    """

    max_objects: int = 16  # rows of the memory bank
    prompted_slots: int = 4  # prompted frames kept per object; the first never goes
    recent_slots: int = 6  # recent frames attended to; 6 is what SAM 2 was trained with
    max_pointer_age: int = 15  # frames; ages beyond are given as this one, as training saw no longer ones
    lost_after: int = 30  # frames without the object until OCCLUDED becomes LOST
    visible_after: int = 1  # frames in a row on which an object must be seen to become VISIBLE again
    occluded_after: int = 1  # frames in a row on which it must not be seen to become OCCLUDED
    search_every: int = 3  # a LOST object is looked for on every so many frames
    drop_after: int = 0  # frames without the object until it is dropped; 0 = never
    explosion_factor: float = 4.0  # a mask of more than so many times its area, at ...
    explosion_iou: float = 0.7  # ... a predicted IoU below this one, is not believed; factor 0 = off
    explosion_frames: int = 3  # sightings back to which its area is compared
    reject_strays: bool = True  # leave out parts of a mask that lie far from where the object was, or its box
    recognition: bool = True  # judge masks by appearance and look for lost objects by it, if the model can (embedded)
    max_area: float = 0.95  # share of the frame beyond which a mask is not believed; 1 = off
    history: int = 8  # frames before the newest that can still be prompted; 0 = the newest only
    history_tolerance: float = 0.1  # s, between the stamp of a prompt and that of the stored frame it is applied to
    deadline: float = 0.0  # s, that a frame may take before economies are made (governor.py); 0 = none are
    hole_area: int = 0  # fill background holes up to this many low-resolution pixels; 0 = off
    non_overlap: bool = False  # every pixel to at most one object
    stability_fallback: bool = True  # an unstable single mask gives way to the best of the three candidates
    click_candidate: str = "best"  # which candidate a single click means, see CLICK_CANDIDATES
    binarize_prompted_memory: bool = True  # memory of a prompted frame holds a binary mask
    memory_policy: str = "recent"  # a key of policies.POLICIES
    reference_policy: bool = False  # do what the official video predictor does, for comparison

    def check_change(self, after: TrackerConfig) -> None:
        """Whether a living tracker can go on with ``after``.

        Raises:
            ValueError: it can't, with the setting and the reason.
        """
        for name, reason in FIXED.items():
            if getattr(after, name) != getattr(self, name):
                raise ValueError(f"{name} can't change while objects are tracked: {reason}")
        if POLICIES[after.memory_policy].anchors != POLICIES[self.memory_policy].anchors:
            raise ValueError(
                "memory_policy can't change to or from distractor_aware while objects are tracked: it has slots of its "
                "own in the memory bank"
            )

    @property
    def rejects_strays(self) -> bool:
        return self.reject_strays and not self.reference_policy

    def __post_init__(self) -> None:
        if self.memory_policy not in POLICIES:
            raise ValueError(f"memory_policy is {self.memory_policy!r}; accepted: {', '.join(POLICIES)}")
        if self.click_candidate not in CLICK_CANDIDATES:
            raise ValueError(f"click_candidate is {self.click_candidate!r}; accepted: {', '.join(CLICK_CANDIDATES)}")
        if self.reference_policy and self.memory_policy != "recent":
            raise ValueError(f"memory_policy is {self.memory_policy!r}; accepted with reference_policy: recent")
        for name, low, high in (
            ("max_objects", 1, 1024),
            ("prompted_slots", 1, 64),
            ("recent_slots", 1, 6),
            ("max_pointer_age", 1, 15),
            ("lost_after", 1, 1_000_000),
            ("visible_after", 1, 100),
            ("occluded_after", 1, 100),
            ("search_every", 1, 1000),
            ("drop_after", 0, 1_000_000),
            ("explosion_factor", 0, 1000),
            ("explosion_iou", 0, 1),
            ("explosion_frames", 1, 100),
            ("max_area", 0, 1),
            ("history", 0, 256),
            ("history_tolerance", 0, 60),
            ("hole_area", 0, 4096),
            ("deadline", 0, 60),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}; accepted: {low} to {high}")
