"""The tracker's settings; each is the node's parameter ``tracker.*`` of the same name. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from sam2_ros.tracking.settings import check_settings, setting, settings_of

SWITCH = ("auto", "on", "off")
CLICK_CANDIDATES = ("best", "stable", "largest", "smallest")

_BANK = "the memory bank is allocated for it"


@dataclass(frozen=True)
class TrackerConfig:
    """Settings of :class:`sam2_ros.tracking.Tracker`; all that are not ``fixed`` may change while it lives.

    Raises:
        ValueError: a value is outside its range; the message gives the range.
    """

    max_objects: int = setting(
        16, "Most objects tracked at a time. The memory bank for them is allocated at configure.", 1, 1024, fixed=_BANK
    )
    prompted_slots: int = setting(
        4, "Prompted frames remembered per object. The first one is never replaced.", 1, 64, fixed=_BANK
    )
    recent_slots: int = setting(6, "Recent frames attended to. SAM 2 was trained with 6.", 1, 6, fixed=_BANK)
    max_pointer_age: int = setting(
        15, "Largest age of an object pointer, in frames, that the network is given. Training saw no larger one.", 1, 15
    )
    lost_after: int = setting(30, "Frames without the object until OCCLUDED becomes LOST.", 1, 1_000_000)
    visible_after: int = setting(
        1, "Frames in a row on which a hidden object must be seen to become VISIBLE again.", 1, 100
    )
    occluded_after: int = setting(
        1,
        "Frames in a row on which a VISIBLE object must be missed to become OCCLUDED. Until then the node publishes "
        "the mask that the network draws all the same.",
        1,
        100,
    )
    search_every: int = setting(
        3,
        "Look for a LOST object on every so many frames. It costs nothing on the others. With windows, look for "
        "hidden objects in the whole frame half as often.",
        1,
        1000,
    )
    drop_after: int = setting(
        0, "Frames without the object until a LOST one is dropped, with an event; 0 = never.", 0, 1_000_000
    )
    explosion_factor: float = setting(
        4.0,
        "Reject a mask that grows to more than so many times its area while its predicted IoU is below explosion_iou: "
        "it is neither VISIBLE nor remembered; 0 = off. Masks that recognition accepts may grow.",
        0,
        1000,
    )
    explosion_iou: float = setting(0.7, "Predicted IoU from which on a mask may grow without limit.", 0, 1)
    explosion_frames: int = setting(
        3, "explosion_factor refers to the smallest area in this many newest sightings.", 1, 100
    )
    reject_strays: bool = setting(
        True,
        "Remove the parts of a mask that lie far from where the object was heading, or outside of the box that "
        "prompted it.",
    )
    look_alikes: bool = setting(
        True,
        "Tell objects that look alike apart by where they were heading while their masks meet, give no two objects a "
        "mask of one thing, and remember such frames only for those that are decided.",
    )
    recognition: bool = setting(
        True,
        "Compare each mask with the prompted object's appearance, hide masks that drifted, and search the image for "
        "hidden objects: models that learned it (the embedded one). Others go by the object score, and by appearance "
        "look for what a picture shows, and for what left its window.",
    )
    max_area: float = setting(
        0.95,
        "Reject a mask of more than this share of the frame, unless the prompt's mask was as large; 1 = off.",
        0,
        1,
    )
    history: int = setting(
        8,
        "Frames before the newest that are stored, so that a late prompt with their stamp applies to them; 0 = none.",
        0,
        256,
        fixed="the stored frames are allocated for it",
    )
    history_tolerance: float = setting(
        0.1, "Seconds by which a prompt's stamp may differ from that of the stored frame it applies to.", 0, 60
    )
    deadline: float = setting(
        0.0,
        "Seconds that the engine may take for a frame. Where it takes longer it sheds load: it looks for lost objects "
        "less often, then attends to fewer memory frames, then makes the input smaller; diagnostics say so. 0 = never.",
        0,
        60,
    )
    window: str = setting(
        "auto",
        "on: the network looks at a window around each object, at most eight, in place of the whole frame. It sees "
        "small objects larger. off: always the whole frame. auto: on for the embedded model, off for others, with "
        "which it was not measured.",
        choices=SWITCH,
    )
    window_budget: float = setting(
        1.0,
        "Time that the network may take for a frame with windows, as a multiple of what it takes without them. It is "
        "estimated. If that is too little for all objects, they take turns, and optical flow carries the masks of the "
        "others on. One object at least is looked at; 0 = no limit.",
        0,
        100,
    )
    edges: str = setting(
        "auto",
        "on: in results, draw the edges of masks where the image has them, by a guided filter. The network draws them "
        "in a quarter of the resolution in which it sees. off: as the network draws them. auto: on for the embedded "
        "model, off for others, with which it was not measured. Always off with reference_policy.",
        choices=SWITCH,
    )
    hole_area: int = setting(0, "Fill holes of up to this many pixels in the low-resolution mask; 0 = off.", 0, 4096)
    non_overlap: bool = setting(False, "Give every pixel to one object at most.")
    stability_fallback: bool = setting(True, "Replace an unstable single mask by the best of the three candidates.")
    click_candidate: str = setting(
        "best",
        "Candidate that a single click selects until the caller chooses another: best (highest predicted IoU, as in "
        "SAM 2), stable (changes least with the threshold), largest or smallest (of those nearly as good as the best).",
        choices=CLICK_CANDIDATES,
    )
    binarize_prompted_memory: bool = setting(True, "Remember prompted frames with a binary mask instead of a soft one.")
    reference_policy: bool = setting(
        False,
        "Do what the official video predictor does, for comparison.",
        fixed="what is remembered already was made by the other rules",
    )

    def __post_init__(self) -> None:
        check_settings(self)

    def check_change(self, after: TrackerConfig) -> None:
        """Whether a living tracker can go on with ``after``.

        Raises:
            ValueError: it can't; the message names the setting and the reason.
        """
        for each in settings_of(self):
            if each.fixed and getattr(after, each.name) != getattr(self, each.name):
                raise ValueError(f"{each.name} can't change while objects are tracked: {each.fixed}")

    def uses_windows(self, auto: bool) -> bool:
        """Whether the network looks through windows. ``auto``: what the setting of that name means for the model
        (:attr:`~sam2_ros.model.config.ModelConfig.windows`)."""
        return (auto if self.window == "auto" else self.window == "on") and not self.reference_policy

    def follows_edges(self, auto: bool) -> bool:
        """Whether masks get the edges of the image; ``auto`` as for :meth:`uses_windows`."""
        return (auto if self.edges == "auto" else self.edges == "on") and not self.reference_policy

    @property
    def rejects_strays(self) -> bool:
        return self.reject_strays and not self.reference_policy

    @property
    def tells_apart(self) -> bool:
        """Whether look-alikes are told apart."""
        return self.look_alikes and not self.reference_policy
