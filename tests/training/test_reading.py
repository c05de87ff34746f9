"""Batches and the thread that reads them."""

import threading

import numpy as np
import pytest
import torch

from advtrack.training.reading import Batches, ahead


class Numbered:
    """Images that are their index."""

    classes = ("a", "b")
    y = np.arange(40) % 2

    def images(self, indices):
        return np.broadcast_to(indices.astype(np.float32)[:, None, None, None], (len(indices), 1, 4, 4)).copy()


def batches(number=1, seed=0, augmentation="none", n=33, batch_size=16):
    return Batches(Numbered(), np.arange(n), batch_size, augmentation, seed, number)


def read(epoch, first=0):
    return list(epoch.read(first, torch.device("cpu")))


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"), [(32, 16, [16, 16]), (33, 16, [16, 16]), (34, 16, [16, 16, 2]), (1, 16, [1])]
)
def test_an_epoch_is_every_clip_once_but_a_last_one_alone(n, batch_size, sizes):
    epoch = batches(n=n, batch_size=batch_size)
    x, labels = (torch.cat(parts) for parts in zip(*read(epoch), strict=True))
    clips = x[:, 0, 0, 0].long()
    assert epoch.sizes == sizes and len(clips) == sum(sizes) == len(set(clips.tolist()))
    assert torch.equal(labels.argmax(1), clips % 2) and torch.equal(labels.sum(1), torch.ones(len(clips)))


@pytest.mark.parametrize("augmentation", ["all", "roll", "none"])
def test_a_batch_is_the_same_from_whichever_reading_began(augmentation):
    whole = read(batches(augmentation=augmentation, n=40, batch_size=8))
    rest = read(batches(augmentation=augmentation, n=40, batch_size=8), first=3)
    for batch, again in zip(whole[3:], rest, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(batch, again, strict=True))


def test_seeds_and_epochs_differ():
    first = [read(batches(number, seed))[0][0] for number, seed in ((1, 0), (2, 0), (1, 1))]
    assert not any(torch.equal(first[i], first[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_reading_runs_ahead_in_another_thread_but_not_far():
    seen = []

    def load(number):
        seen.append((number, threading.current_thread() is threading.main_thread()))
        return number

    reading = ahead(load, range(9))
    assert next(reading) == 0
    assert list(reading) == list(range(1, 9))
    assert seen == [(number, False) for number in range(9)]
    seen.clear()
    stopped = ahead(load, range(9))
    next(stopped)
    stopped.close()
    assert len(seen) <= 3


def test_what_goes_wrong_while_reading_is_told():
    def load(number):
        if number == 2:
            raise OSError("no such shard")
        return number

    reading = ahead(load, range(9))
    assert [next(reading), next(reading)] == [0, 1]
    with pytest.raises(OSError, match="no such shard"):
        next(reading)
