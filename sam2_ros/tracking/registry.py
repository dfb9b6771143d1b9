"""The living objects: permanent ids, unique names, rows of the memory bank."""

from __future__ import annotations

from sam2_ros.text import counted
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.types import PromptCode, PromptError, PromptRequest


class Registry:
    """Living objects by id, in the order of their ids. Ids are not reused."""

    def __init__(self, rows: int) -> None:
        self.objects: dict[int, LiveObject] = {}
        self.next_id = 1
        self._rows = rows

    def living(self, object_id: int) -> LiveObject:
        """The object of this id. Raises a PromptError (UNKNOWN_OBJECT) with the living ones if there is none."""
        if object_id in self.objects:
            return self.objects[object_id]
        living = ", ".join(str(i) for i in self.objects) or "none"
        raise PromptError(PromptCode.UNKNOWN_OBJECT, f"there is no object {object_id}; living objects: {living}")

    def check_name(self, name: str, owner: int | None) -> None:
        """Raises a PromptError (DUPLICATE_NAME) where another object than ``owner`` has the name."""
        for obj in self.objects.values():
            if name and obj.name == name and obj.object_id != owner:
                raise PromptError(
                    PromptCode.DUPLICATE_NAME, f"object {obj.object_id} is already named '{name}'; choose another name"
                )

    def create(self, request: PromptRequest, frame: int) -> LiveObject:
        """A new object with an id and a row of its own.

        Raises:
            PromptError: DUPLICATE_NAME, or FULL.
        """
        self.check_name(request.name, None)
        taken = {obj.row for obj in self.objects.values()}
        row = next((row for row in range(self._rows) if row not in taken), None)
        if row is None:
            raise PromptError(
                PromptCode.FULL,
                f"{counted(self._rows, 'object')} tracked already (tracker.max_objects); remove one first",
            )
        obj = LiveObject(self.next_id, row, request.name, request.label, request.label_score, frame)
        self.next_id += 1
        self.objects[obj.object_id] = obj
        return obj
