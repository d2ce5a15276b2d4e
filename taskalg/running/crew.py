"""Threads that take items of work, one after the other, while the caller's thread looks on."""

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

_TICK = 0.1  # seconds between two looks


def share(
    items: Iterator[Item],
    worker: Callable[[], Callable[[Item], None]],
    threads: int,
    *,
    look: Callable[[], None],
    stop: threading.Event,
) -> None:
    """Have threads do all items, each by the thread that comes for it next.

    Args:
        items: what to do; taken under a lock.
        worker: called once in each thread; returns what does an item there.
        threads: how many.
        look: called from this thread every tenth of a second and at the end; cancels by raising.
        stop: set as soon as no more items are taken; long items should heed it.

    Raises:
        BaseException: whatever stopped a thread, or what `look` raised.
    """
    lock = threading.Lock()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            do = worker()
            while not stop.is_set():
                with lock:
                    item = next(items, None)
                if item is None:
                    return
                do(item)
        except BaseException as error:
            failures.append(error)
            stop.set()

    crew = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    try:
        for member in crew:
            member.start()
        for member in crew:
            while member.is_alive():
                member.join(_TICK)
                look()
    finally:
        stop.set()
        for member in crew:
            if member.ident is not None:
                member.join()
    if failures:
        raise failures[0]
    look()  # at all of it; also for a run shorter than a tick
