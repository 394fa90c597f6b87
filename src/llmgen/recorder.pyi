class Recorder:
    """Writes the raw records of one worker below `directory` (created if absent).

    classes: number of request classes; each has two groups of histograms (inside, outside of the window).
    Raises OSError if the first segments cannot be made (a disk that is full already).
    """

    disk_error: int
    events_dropped: int
    late_segments: int
    def __init__(self, directory: str, worker: int, classes: int, record_events: bool = True) -> None: ...
    def close(self) -> None:
        """Stops the helper thread, unmaps, cuts the unused tails of the files. Safe to call twice."""
    def drop_file(self, name: str) -> None: ...
    def cut_file(self, name: str, size: int) -> None: ...
