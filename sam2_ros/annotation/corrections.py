"""What a person corrects in an annotated recording. Each correction makes a new version; undo goes back to the last."""

from __future__ import annotations

from collections.abc import Mapping
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
        new = self.with_masks(dict.fromkeys(there), by_person=True)
        if any(key == object_id for _, key in new.masks):
            return new
        return Version(
            new.masks,
            {key: label for key, label in new.labels.items() if key != object_id},
            tuple(each for each in new.reasons if each.object_id != object_id),
            frozenset(place for place in new.corrected if place[1] != object_id),
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
