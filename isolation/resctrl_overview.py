"""What all resctrl groups hold, read once for as many placements as are compared with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from isolation.process import ThreadId
from isolation.resctrl_files import DEFAULT, ResctrlFiles, control_of
from isolation.resctrl_info import ResctrlInfo
from isolation.resctrl_schemata import Schemata


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """As of one moment; what a group may use is read when it is asked for."""

    info: ResctrlInfo
    where: Mapping[int, str]  #: the group of each thread that is not in the default one
    _resctrl: ResctrlFiles
    _schemata: dict[str, Schemata] = field(default_factory=dict)

    def group(self, thread: ThreadId) -> str:
        """Return the group a thread is in, the monitoring group if there is one."""
        return self.where.get(thread.tid, DEFAULT)

    def control(self, thread: ThreadId) -> str:
        """Return the control group a thread is in."""
        return control_of(self.group(thread))

    def schemata(self, group: str) -> Schemata:
        """Return what a control group may use; raises ResctrlVanished."""
        if group not in self._schemata:
            self._schemata[group] = self._resctrl.schemata(group)
        return self._schemata[group]


class Overviews:
    """Looks at all groups: anew each time, or within `kept` only when there is a reason to."""

    def __init__(self, resctrl: ResctrlFiles, read_info: Callable[[], ResctrlInfo]) -> None:
        self._resctrl = resctrl
        self._read_info = read_info
        self._keeping = False
        self._known: Overview | None = None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep what is seen until the end, or until it is dropped; what others change meanwhile is seen next time."""
        self._keeping = True
        try:
            yield
        finally:
            self._keeping = False
            self._known = None

    def info(self) -> ResctrlInfo:
        """Return what can be controlled, as of what is kept; raises ResctrlVanished."""
        return self._known.info if self._known else self._read_info()

    def latest(self) -> Overview:
        """Return what is kept, or else look; raises ResctrlVanished."""
        return self._known or self.anew()

    def anew(self) -> Overview:
        """Look; raises ResctrlVanished."""
        self._resctrl.check_mounted()
        found = Overview(info=self._read_info(), where=self._resctrl.whereabouts(), _resctrl=self._resctrl)
        if self._keeping:
            self._known = found
        return found

    def drop(self) -> None:
        """Forget what is kept, since it is about to change."""
        self._known = None
