"""Whether an object counts as seen: the rules behind VISIBLE, OCCLUDED and LOST. Pure; free of torch.

1. *Seen.* The network sees an object on a tracked frame if :meth:`Sam2Model.present` says so (object score > 0) and its
   mask is neither empty nor doubted.
2. *Doubted.* A mask is doubted if it is a speck, fills the frame, explodes, leaps or swells. It is a speck if it covers
   less than :data:`SPECK` of the object's usual area. That is the area of a sighting where it was largest, less
   :data:`FADING` for every sighting since. It fills the frame if it covers more than ``max_area`` of it and the mask of
   the object's newest prompt did not. It explodes if its predicted IoU is below ``explosion_iou`` and it covers more
   than ``explosion_factor`` times the smallest of the last ``explosion_frames`` areas at which the object was seen.

   A prompt's mask counts among those areas if a box or a mask gave it its size; clicks may have meant a part. An object
   that comes close is not doubted: either it grows slowly, or the network is sure of it. With recognition
   (:mod:`~sam2_ros.tracking.recognition`) no mask of a present object explodes. But seen through a window, with a
   judgement below :data:`SURE`, it leaps if it lies more than :data:`LEAP` of the object's sizes from where it was
   expected and seen last, and swells if it covers more than :data:`SWELLING` times the usual area. The areas stay while
   masks are doubted; every frame with nothing to see forgets the oldest of them.
3. *VISIBLE.* An object becomes VISIBLE when it was seen on ``visible_after`` frames in a row, and stays so while it is
   seen. While it is missed on fewer than ``occluded_after`` frames in a row, it stays VISIBLE with the mask that the
   decoder draws all the same, unless that is empty or doubted. VISIBLE always means that this frame has a mask.
4. Otherwise it is *OCCLUDED*; after more than ``lost_after`` frames without VISIBLE, *LOST*.
5. A prompt decides at once: VISIBLE with a mask, OCCLUDED or LOST without. An object that a picture prompted is LOST
   until it is seen.
6. *LOST* objects are searched for on every ``search_every``-th frame, and on the next one after something was seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.types import ObjectState

SPECK = 0.02  # of the usual area; the network draws such masks where an object is not
FADING = 0.05  # so that what moves away may become small
SURE = 3.0  # judgement (logit) from which on a recognised object may leap or swell
LEAP = 1.0  # usual sizes
SWELLING = 2.0  # usual areas
# How often the frame shows an object that is not seen in a small window: it is elsewhere, or not recognised. Fitted
# on rendered clips of the split "choose" and on clips of photographs (docs/performance.md).
MISSED = 0.45


def visibility_in_frame(visibility: float, share: float) -> float:
    """Probability that the frame shows an object.

    Args:
        visibility: the same of the window through which it was looked for.
        share: of the frame that the window shows. 1: nothing changes.

    What is seen (from one half on) stays as probable as it was.
    """
    missed = MISSED * (1 - share)
    return visibility if visibility >= 0.5 else missed + (1 - 2 * missed) * visibility


@dataclass(frozen=True)
class Observation:
    """What the network says of one object on one frame."""

    present: bool  # object score > 0, and predicted IoU high enough where the model asks for it
    area: float  # of the decoder's mask, share of the frame, whatever ``present`` says
    predicted_iou: float
    recognised: bool = False  # present, and the tracker recognises objects by appearance
    score: float = 0.0  # logit
    visibility: float = 0.0  # [0, 1]
    close: bool = False  # seen through a window
    leap: float = 0.0  # of its mask from where it was expected and seen last, in its usual sizes


@dataclass(frozen=True)
class Presence:
    """An object's state after one frame, and what the next state depends on."""

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
    usual_area: float = 0.0  # share of the frame; 0 before it was seen
    prompted_area: float = 0.0  # of its newest prompt
    doubted: bool = False  # there was a mask, and it is not believed
    awaited: bool = False  # prompted by a picture, and not seen yet: LOST, however long ago that was

    def after(self, frame: int, stamp: int, observation: Observation, config: TrackerConfig) -> Presence:
        doubted = observation.area > 0 and self._doubts(observation, config)
        seen = observation.present and observation.area > 0 and not doubted
        areas, usual = self.areas, self.usual_area
        if seen:
            areas = (*areas, observation.area)[-config.explosion_frames :]
            usual = max(observation.area, (1 - FADING) * usual)
        elif not observation.present:
            areas = areas[1:]
        now = replace(
            self,
            frame=frame,
            seen_run=self.seen_run + 1 if seen else 0,
            unseen_run=0 if seen else self.unseen_run + 1,
            areas=areas,
            usual_area=usual,
            doubted=doubted and observation.present,
        )
        visible = self.state is ObjectState.VISIBLE
        if seen:
            visible = visible or now.seen_run >= config.visible_after
        else:
            visible = visible and observation.area > 0 and not doubted and now.unseen_run < config.occluded_after
        return now._settled(stamp, visible, config)

    def prompted(self, frame: int, stamp: int, area: float, bounded: bool, config: TrackerConfig) -> Presence:
        """The presence after a prompt on ``frame`` whose mask covers ``area`` (share of the frame; 0 = no mask).
        ``bounded``: a box or a mask said how large the object is."""
        now = replace(
            self, frame=frame, seen_run=config.visible_after if area else 0, unseen_run=0 if area else 1,
            areas=(area,) if area and bounded else (), usual_area=area or self.usual_area, prompted_area=area,
            doubted=False,
        )  # fmt: skip
        return now._settled(stamp, area > 0, config)

    @classmethod
    def awaiting(cls, frame: int, config: TrackerConfig) -> Presence:
        """The presence on ``frame`` of an object that a picture prompts there."""
        return cls(frame, absent_since=frame, awaited=True)._settled(0, False, config)

    def passed(self, frame: int, stamp: int, config: TrackerConfig) -> Presence:
        """The presence after a frame on which the object was not searched for."""
        return replace(self, frame=frame, doubted=False)._settled(stamp, False, config)

    def carried(self, frame: int, stamp: int, config: TrackerConfig) -> Presence:
        """The presence of a VISIBLE object after a frame to which its mask was carried, and on which the network did
        not look at it."""
        return replace(self, frame=frame)._settled(stamp, True, config)

    def due(self, frame: int, config: TrackerConfig, search_factor: int = 1) -> bool:
        """Whether to search for it on ``frame``; for a LOST one ``search_factor`` times less often than configured."""
        if self.state is not ObjectState.LOST or self.seen_run:
            return True
        return (frame - self.lost_since) % (search_factor * config.search_every) == 0

    @property
    def absent_for(self) -> int:
        """Frames since it was VISIBLE, or since it was added."""
        return self.frame - max(self.last_seen_frame, self.absent_since)

    def _doubts(self, observation: Observation, config: TrackerConfig) -> bool:
        if config.reference_policy:
            return False
        if observation.area < SPECK * self.usual_area or observation.area > config.max_area >= self.prompted_area:
            return True
        if observation.recognised and observation.close and observation.score < SURE:
            larger = observation.area > SWELLING * self.usual_area > 0
            return larger or observation.leap > LEAP
        sure = observation.recognised or observation.predicted_iou >= config.explosion_iou
        if not config.explosion_factor or not self.areas or sure:
            return False
        return observation.area > config.explosion_factor * min(self.areas)

    def _settled(self, stamp: int, visible: bool, config: TrackerConfig) -> Presence:
        if visible:
            return replace(
                self,
                state=ObjectState.VISIBLE,
                awaited=False,
                first_seen=stamp if self.last_seen_frame < 0 else self.first_seen,
                last_seen=stamp,
                last_seen_frame=self.frame,
                lost_since=-1,
            )
        if self.absent_for <= config.lost_after and not self.awaited:
            return replace(self, state=ObjectState.OCCLUDED, lost_since=-1)
        return replace(self, state=ObjectState.LOST, lost_since=self.frame if self.lost_since < 0 else self.lost_since)
