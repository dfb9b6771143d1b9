"""Whether an object counts as seen: the rules behind VISIBLE, OCCLUDED and LOST. Pure; free of torch.

1. *Seen.* On a tracked frame the network sees the object where :meth:`Sam2Model.present` says so (object score > 0) and
   its mask is not empty and not doubted.
2. *Doubted.* A mask is doubted where it fills the frame (more than ``max_area`` of it, and the object's newest prompt
   did not), or where it explodes: it covers more than ``explosion_factor`` times the smallest of the last
   ``explosion_frames`` areas at which the object was seen, and its predicted IoU is below ``explosion_iou``. A prompt's
   mask counts among those areas if a box or a mask gave it its size; clicks may have meant a part. An object that comes
   close is not doubted: either it grows slowly, or the network is sure of it. Nor does a mask explode whose object was
   recognised (:mod:`~sam2_ros.tracking.recognition`). While masks are doubted those areas stay;
   with every frame on which there is nothing to see, the oldest of them is forgotten.
3. *VISIBLE* it becomes when it was seen on ``visible_after`` frames in a row, and it stays so while it is seen. Where
   the network does not see it for less than ``occluded_after`` frames in a row, it stays VISIBLE with the mask that the
   decoder draws all the same, unless that is empty or doubted. VISIBLE always means that there is a mask of this frame.
4. *OCCLUDED* it is otherwise, and *LOST* when it has not been VISIBLE for more than ``lost_after`` frames.
5. A prompt decides at once: VISIBLE with a mask, OCCLUDED or LOST without.
6. *LOST* objects are looked for on every ``search_every``-th frame, and on the next one where something was seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.types import ObjectState


@dataclass(frozen=True)
class Evidence:
    """What the network says of an object on one frame."""

    present: bool  # object score > 0, and predicted IoU high enough where the model asks for it
    area: float  # of the decoder's mask, share of the frame, whatever ``present`` says
    predicted_iou: float
    recognised: bool = False  # what it shows was compared with the prompts, and found to be the object


@dataclass(frozen=True)
class Sight:
    """How an object stands after one frame."""

    frame: int  # index of that frame; at first that on which it is added
    state: ObjectState = ObjectState.OCCLUDED
    first_seen: int = 0  # ns, stamp of the first frame on which it was VISIBLE
    last_seen: int = 0  # ns, of the newest one
    last_seen_frame: int = -1
    absent_since: int = 0  # frame from which its absence is counted
    lost_since: int = -1  # frame on which it became LOST
    seen_run: int = 0  # frames in a row on which it was seen, up to now
    unseen_run: int = 0  # and was not
    areas: tuple[float, ...] = ()  # at which it was seen last, shares of the frame, the newest last
    prompted_area: float = 0.0  # of its newest prompt
    doubted: bool = False  # there was a mask, and it is not believed

    def after(self, frame: int, stamp: int, evidence: Evidence, config: TrackerConfig) -> Sight:
        """How it stands after a tracked frame."""
        doubted = evidence.area > 0 and self._doubts(evidence, config)
        seen = evidence.present and evidence.area > 0 and not doubted
        areas = self.areas
        if seen:
            areas = (*areas, evidence.area)[-config.explosion_frames :]
        elif not evidence.present:
            areas = areas[1:]
        now = replace(
            self,
            frame=frame,
            seen_run=self.seen_run + 1 if seen else 0,
            unseen_run=0 if seen else self.unseen_run + 1,
            areas=areas,
            doubted=doubted and evidence.present,
        )
        visible = self.state is ObjectState.VISIBLE
        if seen:
            visible = visible or now.seen_run >= config.visible_after
        else:
            visible = visible and evidence.area > 0 and not doubted and now.unseen_run < config.occluded_after
        return now._settled(stamp, visible, config)

    def prompted(self, frame: int, stamp: int, area: float, bounded: bool, config: TrackerConfig) -> Sight:
        """How it stands after a frame on which it was prompted; ``area`` is that of its mask, 0 where it has none.

        ``bounded``: a box or a mask said how large it is.
        """
        now = replace(
            self, frame=frame, seen_run=config.visible_after if area else 0, unseen_run=0 if area else 1,
            areas=(area,) if area and bounded else (), prompted_area=area, doubted=False,
        )  # fmt: skip
        return now._settled(stamp, area > 0, config)

    def passed(self, frame: int, stamp: int, config: TrackerConfig) -> Sight:
        """How it stands after a frame on which it was not looked for."""
        return replace(self, frame=frame, doubted=False)._settled(stamp, False, config)

    def due(self, frame: int, config: TrackerConfig, seldom: int = 1) -> bool:
        """Whether it is to be looked for on ``frame``; a lost one ``seldom`` times as seldom as configured."""
        if self.state is not ObjectState.LOST or self.seen_run:
            return True
        return (frame - self.lost_since) % (seldom * config.search_every) == 0

    @property
    def absent_for(self) -> int:
        """Frames since it was VISIBLE, or since it was added."""
        return self.frame - max(self.last_seen_frame, self.absent_since)

    def _doubts(self, evidence: Evidence, config: TrackerConfig) -> bool:
        if config.reference_policy:
            return False
        if evidence.area > config.max_area >= self.prompted_area:
            return True
        sure = evidence.recognised or evidence.predicted_iou >= config.explosion_iou
        if not config.explosion_factor or not self.areas or sure:
            return False
        return evidence.area > config.explosion_factor * min(self.areas)

    def _settled(self, stamp: int, visible: bool, config: TrackerConfig) -> Sight:
        if visible:
            return replace(
                self,
                state=ObjectState.VISIBLE,
                first_seen=stamp if self.last_seen_frame < 0 else self.first_seen,
                last_seen=stamp,
                last_seen_frame=self.frame,
                lost_since=-1,
            )
        if self.absent_for <= config.lost_after:
            return replace(self, state=ObjectState.OCCLUDED, lost_since=-1)
        return replace(self, state=ObjectState.LOST, lost_since=self.frame if self.lost_since < 0 else self.lost_since)
