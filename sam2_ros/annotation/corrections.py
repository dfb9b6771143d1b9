"""What a person corrects in an annotated recording. Each correction makes a new version; undo goes back to the last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from sam2_ros.annotation.doubts import Reason, uncertain_masks
from sam2_ros.annotation.masks import Mask
from sam2_ros.annotation.results import Annotated

MOST_VERSIONS = 50  # that undo can go back


@dataclass(frozen=True)
class Version:
    """What is known of a recording at one time. Nothing in it is ever changed."""

    masks: Mapping[tuple[int, int], Mask]  # by image and object
    labels: Mapping[int, str]  # by object
    reasons: tuple[Reason, ...]
    corrected: frozenset[tuple[int, int]]  # image and object, on which a person has decided

    def with_masks(self, changes: Mapping[tuple[int, int], Mask | None], by_person: bool) -> Version:
        """With other masks, or none, in some images. Doubts about the old ones are gone; a tracked mask may have its
        own."""
        masks = dict(self.masks)
        for place, mask in changes.items():
            if mask is None:
                masks.pop(place, None)
            else:
                masks[place] = mask
        reasons = [each for each in self.reasons if (each.frame, each.object_id) not in changes]
        if not by_person:
            reasons += uncertain_masks([mask for mask in changes.values() if mask is not None])
        corrected = self.corrected | changes.keys() if by_person else self.corrected
        return Version(masks, self.labels, tuple(reasons), corrected)

    def with_label(self, object_id: int, label: str) -> Version:
        return replace(self, labels={**self.labels, object_id: label})

    def without(self, object_id: int, first: int, last: int) -> Version:
        """Without an object in the images ``first`` to ``last``, and without it at all if nothing is left of it."""
        there = [place for place in self.masks if place[1] == object_id and first <= place[0] <= last]
        return self.with_masks(dict.fromkeys(there), by_person=True)._without_unseen(object_id)

    def split(self, object_id: int, frame: int, new: int) -> Version:
        """With another object, of the same label, in place of an object from image ``frame`` on."""
        labels = {**self.labels, new: self.labels[object_id]}
        parts = replace(self, labels=labels)._renumbered(
            lambda at, key: new if key == object_id and at >= frame else key
        )
        return parts._decided(frame, object_id, new)

    def exchanged(self, one: int, other: int, frame: int) -> Version:
        """With the ids of two objects exchanged from image ``frame`` on."""
        new = {one: other, other: one}
        parts = self._renumbered(lambda at, key: new.get(key, key) if at >= frame else key)
        return parts._decided(frame, one, other)._without_unseen(one)._without_unseen(other)

    def merged(self, kept: int, other: int) -> Version:
        """With two objects as one. Where both have a mask, that of ``kept`` stays."""
        double = [(at, other) for at, key in self.masks if key == kept and (at, other) in self.masks]
        parts = self.with_masks(dict.fromkeys(double), by_person=False)
        labels = {key: label for key, label in self.labels.items() if key != other}
        return replace(parts._renumbered(lambda _, key: kept if key == other else key), labels=labels)

    def _renumbered(self, new_id: Callable[[int, int], int]) -> Version:
        """With other ids of objects: ``new_id`` of an image and the id there."""
        masks = {}
        for (frame, key), mask in self.masks.items():
            new = new_id(frame, key)
            masks[frame, new] = mask if new == key else replace(mask, object_id=new)
        reasons = tuple(replace(each, object_id=new_id(each.frame, each.object_id)) for each in self.reasons)
        return Version(masks, self.labels, reasons, frozenset((at, new_id(at, key)) for at, key in self.corrected))

    def _decided(self, frame: int, *keys: int) -> Version:
        """A person has looked at these objects in an image: tracking ends there."""
        return self.with_masks({(frame, key): self.masks.get((frame, key)) for key in keys}, by_person=True)

    def _without_unseen(self, object_id: int) -> Version:
        """Without an object that has no mask at all."""
        if any(key == object_id for _, key in self.masks):
            return self
        return Version(
            self.masks,
            {key: label for key, label in self.labels.items() if key != object_id},
            tuple(each for each in self.reasons if each.object_id != object_id),
            frozenset(place for place in self.corrected if place[1] != object_id),
        )

    def accepted(self, frame: int) -> Version:
        """Without doubts about an image."""
        return replace(self, reasons=tuple(each for each in self.reasons if each.frame != frame))


class Corrections:
    """The versions of one recording.

    Args:
        saved: as it is in the data set.
        unsaved: of an earlier review that was not saved.
    """

    def __init__(self, saved: Annotated, unsaved: Annotated | None = None) -> None:
        self.recording = saved
        self._versions = [_version(saved)]
        self._saved: Version | None = self._versions[0]
        if unsaved is not None:
            self._versions.append(_version(unsaved))

    @property
    def now(self) -> Version:
        return self._versions[-1]

    @now.setter
    def now(self, version: Version) -> None:
        """Goes on with the correction that was added last, which is not complete yet."""
        self._versions[-1] = version

    @property
    def changed(self) -> bool:
        """Whether there is something to save."""
        return self.now is not self._saved

    @property
    def can_undo(self) -> bool:
        return len(self._versions) > 1

    def add(self, version: Version) -> None:
        self._versions.append(version)
        del self._versions[:-MOST_VERSIONS]

    def undo(self) -> None:
        if self.can_undo:
            self._versions.pop()

    def saving(self) -> None:
        """Called before :meth:`result` is written: if that fails, no version is known to be in the data set."""
        self._saved = None

    def saved(self) -> None:
        """Called when :meth:`result` is in the data set."""
        self._saved = self.now

    def result(self) -> Annotated:
        now = self.now
        masks = [mask for _, mask in sorted(now.masks.items(), key=lambda item: item[0])]
        return replace(
            self.recording,
            labels=dict(now.labels),
            masks=masks,
            reasons=[*now.reasons],
            corrected=sorted(now.corrected),
        )


def _version(done: Annotated) -> Version:
    masks = {(mask.frame, mask.object_id): mask for mask in done.masks}
    return Version(masks, done.labels, tuple(done.reasons), frozenset(done.corrected))
