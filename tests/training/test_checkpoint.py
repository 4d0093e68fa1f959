"""A training that goes on after its process has ended."""

import errno
import os
import shutil
import signal
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback

from sklearn_ssl._training import checkpoint
from sklearn_ssl.losses import Queue, SSLLoss, mlp

GOES_ON = "This fit resumes from .*safetensors, after"


class Everything(SSLLoss):
    """A teacher, a predictor, a queue, own random numbers, a term: all that a training has to keep."""

    teacher_momentum = 0.9

    def build(self, spec):
        self.predictor = mlp(spec.dim, 8, spec.dim)
        self.queue = Queue(16, spec.dim)

    def step(self, batch, student, teacher):
        z, t = student(batch.views), teacher(batch.views)
        noise = torch.rand(z[0].shape, generator=batch.generator)
        push = F.cosine_similarity(z[0], self.queue.rows[: len(z[0])]).mean()
        self.queue.push(t[0])
        pull = F.cosine_similarity(self.predictor(z[0] + 0.1 * noise), t[1]).mean()
        return {"loss": push - pull, "push": push}


class At(Callback):
    """Does something when so many steps are done."""

    def __init__(self, step, do):
        self.step, self.do = step, do

    def on_batch_end(self, net, **kwargs):
        if net.steps_done == self.step:
            self.do()


class Count(Callback):
    steps = 0

    def on_train_begin(self, net, **kwargs):
        self.seconds_before = net.seconds_before

    def on_batch_end(self, net, **kwargs):
        self.steps += 1


def die():
    raise RuntimeError("the machine was switched off")


def press_ctrl_c():
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def often(monkeypatch):
    """A checkpoint after every step."""
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    monkeypatch.setattr(checkpoint, "MAX_TIME_FRACTION", float("inf"))


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "some" / "runs"


@pytest.fixture
def make(embedder, runs):
    """An estimator whose trainings of 3 epochs, 4 steps each, are kept; on 12 images."""

    def make(**params):
        usual = {"loss": Everything, "batch_size": 3, "max_epochs": 3, "checkpoint": runs}
        return embedder(**{**usual, **params})

    return make


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def same_training(a, b):
    """Weights, and history without times, bit for bit."""
    states = [each.encoder_.state_dict() for each in (a, b)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    rows = [[without_times(row) for row in each.history_] for each in (a, b)]
    assert rows[0] == rows[1]
    assert a.n_iter_ == b.n_iter_


def without_times(row):
    return {name: value for name, value in row.items() if name not in ("dur", "images_per_second")}


# ------------------------------------------------------------------ going on


@pytest.mark.parametrize("step", [1, 3, 4, 5, 11])  # of 12, four in an epoch
def test_a_fit_that_died_goes_on_bit_for_bit(often, make, images, step):
    whole = make(checkpoint=None).fit(images)
    with pytest.raises(RuntimeError, match="switched off"):
        make(callbacks=[At(step, die)]).fit(images)
    count = Count()
    # It died while its last step was announced, before that was written.
    with pytest.warns(UserWarning, match=f"{GOES_ON} {step - 1} steps"):
        again = make(callbacks=[count]).fit(images)
    assert count.steps == 12 - (step - 1)
    same_training(again, whole)


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_with_every_optimizer(often, make, images, optimizer):
    whole = make(checkpoint=None, optimizer=optimizer).fit(images)
    with pytest.raises(RuntimeError, match="switched off"):
        make(optimizer=optimizer, callbacks=[At(6, die)]).fit(images)
    with pytest.warns(UserWarning, match=GOES_ON):
        same_training(make(optimizer=optimizer).fit(images), whole)


def test_a_resnet_in_channels_last_goes_on_bit_for_bit(often, make, images):
    params = {"backbone": "resnet18", "max_epochs": 2, "batch_size": 6}
    whole = make(**params, checkpoint=None).fit(images)
    with pytest.raises(RuntimeError, match="switched off"):
        make(**params, callbacks=[At(2, die)]).fit(images)
    with pytest.warns(UserWarning, match=GOES_ON):
        same_training(make(**params).fit(images), whole)


def test_by_default_it_is_written_after_each_epoch(make, images, monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_TIME_FRACTION", float("inf"))
    with pytest.raises(RuntimeError, match="switched off"):
        make(callbacks=[At(7, die)]).fit(images)
    with pytest.warns(UserWarning, match=f"{GOES_ON} 4 steps"):
        make().fit(images)


def test_writing_takes_a_tenth_of_the_time_at_most(make, images, monkeypatch):
    # A step takes a second, and so does writing, so that 10 s pass before the next file. The epochs end 4, 8
    # and 12 s after the first one, and a finished training is always written.
    clock, written = [0], []
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    class Second(Callback):
        def on_batch_end(self, net, **kwargs):
            clock[0] += 1

    def slow(path, kind, content, unless):
        clock[0] += 1
        written.append(content["training"]["steps_done"])

    monkeypatch.setattr(checkpoint, "write_archive", slow)
    make(callbacks=[Second()]).fit(images)
    assert written == [0, 12, 12]


def test_a_seed_that_nobody_gave_is_kept(often, make, images):
    with pytest.raises(RuntimeError, match="switched off"):
        make(random_state=None, callbacks=[At(6, die)]).fit(images)
    with pytest.warns(UserWarning, match=GOES_ON):
        make(random_state=None).fit(images)


def test_a_finished_fit_is_taken_as_it_is(make, images):
    whole, count = make().fit(images), Count()
    with pytest.warns(UserWarning, match="This fit is taken from .*, after 12 steps"):
        again = make(callbacks=[count]).fit(images)
    assert count.steps == 0
    assert again.history_ == whole.history_
    np.testing.assert_array_equal(again.transform(images), whole.transform(images))


def test_ctrl_c_and_the_same_fit_again(make, images):
    whole = make(checkpoint=None).fit(images)
    interrupted = make(callbacks=[At(6, press_ctrl_c)])
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="or as before: .* from .*tensors"):
        interrupted.fit(images)
    assert interrupted.transform(images).shape == (12, 8)
    with pytest.warns(UserWarning, match=f"{GOES_ON} 6 steps"):
        same_training(make().fit(images), whole)


def test_what_a_warm_start_goes_on_with_is_a_training_of_its_own(often, make, images):
    whole = make(checkpoint=None, warm_start=True).fit(images).set_params(max_epochs=5).fit(images)
    first = make(warm_start=True).fit(images).set_params(max_epochs=5)
    with pytest.raises(RuntimeError, match="switched off"):
        first.set_params(callbacks=[At(18, die)]).fit(images)
    # The same lines, run again.
    with pytest.warns(UserWarning, match="is taken from .* after 12 steps"):
        again = make(warm_start=True).fit(images)
    with pytest.warns(UserWarning, match=f"{GOES_ON} 17 steps"):
        again.set_params(max_epochs=5).fit(images)
    same_training(again, whole)


def test_the_time_that_was_used_counts(often, make, images):
    params = {"max_epochs": "auto", "max_time": 60}
    with pytest.raises(RuntimeError, match="switched off"):
        make(**params, callbacks=[At(6, die)]).fit(images)
    count = Count()
    with pytest.raises(RuntimeError, match="switched off"), pytest.warns(UserWarning, match=GOES_ON):
        make(**params, callbacks=[count, At(9, die)]).fit(images)
    assert 0 < count.seconds_before < 60


def test_a_fit_without_any_time_left_ends_at_once(often, make, images, runs):
    params = {"max_epochs": "auto", "max_time": 60}
    with pytest.raises(RuntimeError, match="switched off"):
        make(**params, callbacks=[At(6, die)]).fit(images)
    [path] = runs.iterdir()
    kept = checkpoint.read_archive(path, checkpoint.KIND)
    kept["training"]["seconds"] = 1000.0
    checkpoint.write_archive(path, checkpoint.KIND, kept)
    count = Count()
    with pytest.warns(UserWarning, match=GOES_ON):
        again = make(**params, callbacks=[count]).fit(images)
    assert count.steps == 0
    assert all(np.isfinite(row["train_loss"]) for row in again.history_)


def test_what_a_callback_has_ended_is_finished_only_while_there_are_callbacks(make, images):
    def stop():
        raise KeyboardInterrupt  # as skorch's EarlyStopping does

    first = make(callbacks=[At(6, stop)]).fit(images)
    assert first.n_iter_ == 2
    with pytest.warns(UserWarning, match="is taken from .* after 6 steps"):
        make(callbacks=[Count()]).fit(images)
    with pytest.warns(UserWarning, match=f"{GOES_ON} 6 steps"):
        same_training(make().fit(images), make(checkpoint=None).fit(images))


def test_numbers_of_numpy_are_as_good(often, make, images):
    params = {
        "lr": np.float64(0.01),
        "max_epochs": np.int64(3),
        "batch_size": np.int32(3),
        "warmup": np.float32(0.5),
    }
    make(**params).fit(images)
    with pytest.warns(UserWarning, match="is taken from"):
        make(**params).fit(images)


def test_ctrl_c_at_the_very_end_keeps_the_finished_model_and_is_raised(make, images):
    class AtTheEnd(Callback):
        def on_epoch_end(self, net, **kwargs):
            if net.steps_done == 12:
                press_ctrl_c()

    estimator = make(callbacks=[AtTheEnd()])
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(images)
    same_training(estimator, make(checkpoint=None).fit(images))


def test_a_disk_that_becomes_full_leaves_a_way_on(often, make, images, monkeypatch, tmp_path):
    estimator = make(
        callbacks=[At(6, lambda: monkeypatch.setattr(checkpoint, "write_archive", disk_is_full))]
    )
    with pytest.raises(OSError, match="No space"):
        estimator.fit(images)
    monkeypatch.undo()
    estimator.set_params(callbacks=None, warm_start=True, checkpoint=tmp_path / "other").fit(images)
    same_training(estimator, make(checkpoint=None).fit(images))


def test_what_callbacks_note_is_kept_where_a_file_can(often, make, images):
    class Notes(Callback):
        def on_epoch_end(self, net, **kwargs):
            net.history.record("score", np.float64(0.5))
            net.history.record("figure", object())

    make(callbacks=[Notes()]).fit(images)
    with pytest.warns(UserWarning, match="is taken from"):
        again = make().fit(images)
    assert again.history_[0]["score"] == 0.5
    assert "figure" not in again.history_[0]


# ------------------------------------------------------------------ which file


def test_what_changes_nothing_does_not_count(make, images, runs):
    make().fit(images)
    for params in ({"verbose": 1}, {"callbacks": []}, {"warm_start": True}, {"checkpoint": str(runs)}):
        with pytest.warns(UserWarning, match="is taken from"):
            make(**params).fit(images)
    assert len(files(runs)) == 1


def test_each_training_has_a_file_of_its_own(make, images, labels, runs, save_images):
    make().fit(images)
    make(lr=0.1).fit(images)
    make(random_state=1).fit(images)
    make(loss="ntxent").fit(images)
    make(loss="ntxent", loss__temperature=0.1).fit(images)
    make().fit(images[:6])
    make().fit(images[::-1])
    make().fit(images, X_unlabeled=images[:3])
    make().fit(list(save_images(images)))
    names = files(runs)
    assert len(names) == 9
    assert sum(name.startswith("ntxent-") for name in names) == 2
    assert sum(name.startswith("Everything-") for name in names) == 7


def test_a_training_that_no_other_process_finds_again_is_told(make, images):
    class Holds(Everything):
        def __init__(self):
            super().__init__()
            self.rows = (row for row in [1])

        def __deepcopy__(self, memo):
            return type(self)()

    words = r"No other process will resume from .* whether loss\.rows is the same"
    with pytest.warns(UserWarning, match=words) as caught:
        make(loss=Holds(), max_epochs=1).fit(images)
    assert len(caught) == 1


def test_what_code_refers_to_counts(make, images, runs):
    names = {"TAU": 1.0}
    exec("def pull(z1, z2):\n    return TAU * (z1 - z2).square().mean()", names)
    make(loss=names["pull"], max_epochs=1).fit(images)
    names["TAU"] = 2.0
    make(loss=names["pull"], max_epochs=1).fit(images)
    assert len(files(runs)) == 2


def test_another_version_of_a_package_makes_another_training(make, images, runs, monkeypatch):
    make(max_epochs=1).fit(images)
    monkeypatch.setattr("sklearn_ssl._hashing._version", lambda package: f"{package} of tomorrow")
    make(max_epochs=1).fit(images)
    assert len(files(runs)) == 2


def test_labels_count_where_they_are_used(make, images, labels, runs):
    class Labeled(Everything):
        uses_labels = True

    make(loss=Labeled).fit(images, labels)
    make(loss=Labeled).fit(images, labels[::-1])
    assert len(files(runs)) == 2


def test_a_file_that_has_changed_is_another_image(make, images, runs, save_images):
    paths = save_images(images)
    make().fit(paths)
    save_images(images[::-1])
    make().fit(paths)
    assert len(files(runs)) == 2


def test_a_grid_search_has_a_file_for_each_fit_and_is_taken_from_them(make, images, labels, runs):
    def search():
        pipe = make_pipeline(make(loss="ntxent", max_epochs=1), LogisticRegression())
        grid = {"sslimageembedder__loss__temperature": [0.1, 0.5]}
        return GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(images, labels)

    first = search()
    assert len(files(runs)) == 2 * 2 + 1
    with pytest.warns(UserWarning, match="is taken from"):
        again = search()
    np.testing.assert_array_equal(again.cv_results_["mean_test_score"], first.cv_results_["mean_test_score"])
    assert len(files(runs)) == 2 * 2 + 1


def test_a_loss_without_a_proper_name(make, images, runs):
    make(loss=lambda z1, z2: (z1 - z2).square().mean(), max_epochs=1).fit(images)
    assert files(runs)[0].startswith("-lambda--")


# ------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize("given", [True, 3, b"runs"])
def test_what_is_no_folder_is_refused(make, images, given):
    with pytest.raises(ValueError, match=f"checkpoint={given!r}: give the path of a folder, or None"):
        make(checkpoint=given).fit(images)


def test_a_folder_that_cannot_be_made_is_told_before_the_first_step(make, images, tmp_path):
    (tmp_path / "file").touch()
    count = Count()
    with pytest.raises(OSError, match=r"checkpoint='.*file.*': Not a directory"):
        make(checkpoint=tmp_path / "file" / "runs", callbacks=[count]).fit(images)
    assert count.steps == 0


def test_a_disk_that_is_full_at_the_start_is_told_before_the_first_step(make, images, monkeypatch):
    monkeypatch.setattr(checkpoint, "write_archive", disk_is_full)
    count = Count()
    with pytest.raises(OSError, match=r"The checkpoint .* cannot be written: .*No space.* Free disk space"):
        make(callbacks=[count]).fit(images)
    assert count.steps == 0


@pytest.mark.parametrize("step", [6, 12])  # in mid-epoch, and at the very end
def test_a_disk_that_becomes_full_ends_the_training_and_keeps_the_model(
    often, make, images, monkeypatch, step
):
    whole = make(checkpoint=None).fit(images)
    estimator = make()

    def fill():
        monkeypatch.setattr(checkpoint, "write_archive", disk_is_full)

    estimator.set_params(callbacks=[At(step, fill)])
    with pytest.raises(OSError, match=r"cannot be written: .*No space"):
        estimator.fit(images)
    assert estimator.transform(images).shape == (12, 8)
    monkeypatch.undo()
    with pytest.warns(UserWarning, match=f"{GOES_ON} "):
        same_training(make().fit(images), whole)


def disk_is_full(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_damaged_file_is_refused(make, images, runs):
    make().fit(images)
    [path] = runs.iterdir()
    whole = bytearray(path.read_bytes())
    whole[-5] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"safetensors is damaged: .* To train from the start, delete it"):
        make().fit(images)


def test_code_that_has_changed_makes_another_training(make, images, runs):
    for sign in "+-":
        names = {}
        exec(f"def pull(z1, z2):\n    return {sign}(z1 - z2).square().mean()", names)
        make(loss=names["pull"]).fit(images)
    assert len(files(runs)) == 2


def test_a_loss_that_is_no_number_does_not_replace_a_good_state(often, make, images, runs):
    class Breaks(Everything):
        def step(self, batch, student, teacher):
            out = super().step(batch, student, teacher)
            return out["loss"] * (float("nan") if batch.epoch == 1 else 1.0)

    with pytest.raises(FloatingPointError):
        make(loss=Breaks).fit(images)
    [path] = runs.iterdir()
    kept = checkpoint.read_archive(path, checkpoint.KIND)
    assert kept["finished"] is None
    assert kept["training"]["steps_done"] == 4
    assert all(tensor.isfinite().all() for tensor in kept["training"]["student"].values())


@pytest.mark.parametrize("epochs", [3, 4])  # the same training, which is finished, and another one
def test_what_a_killed_process_left_half_written_is_cleared_away(make, images, runs, epochs):
    make().fit(images)
    left = runs / f".{'0' * 16}.partial"
    left.mkdir()
    (left / ".tmpXYZ").write_bytes(b"half")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "is taken from"
        make(max_epochs=epochs).fit(images)
    assert all(name.startswith("Everything-") for name in files(runs))


def test_a_file_never_goes_back(often, make, images):
    """Two fits of the same at once: the slower one, which dies, leaves the faster one's finished file."""

    def another():
        with pytest.warns(UserWarning, match=f"{GOES_ON} 5 steps"):
            make().fit(images)

    with pytest.raises(RuntimeError, match="switched off"):
        make(callbacks=[At(6, another), At(8, die)]).fit(images)
    with pytest.warns(UserWarning, match="is taken from .*, after 12 steps"):
        same_training(make().fit(images), make(checkpoint=None).fit(images))


def test_a_file_of_another_training_is_refused(make, images, runs):
    make().fit(images)
    [path] = runs.iterdir()
    make(lr=0.1).fit(images)
    [other] = set(runs.iterdir()) - {path}
    shutil.copy(other, path)
    with pytest.raises(
        ValueError, match=r"another training, which was renamed or copied to this name. To tr"
    ):
        make().fit(images)


def test_a_pipe_in_the_place_of_the_file_is_refused(make, images, runs):
    make().fit(images)
    [path] = runs.iterdir()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match=r"checkpoint='.*runs': .* is a pipe or a device"):
        make().fit(images)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("training",), None),
        (("training", "steps_done"), -1),
        (("training", "seed"), "0"),
        (("training", "student"), [1]),
        (("training", "optimizer", "param_groups"), 5),
        (("training", "meter"), {"steps": 1}),
        (("history",), [{}]),
        (("finished",), "yes"),
        (("bad",), {"0": 1}),
        (("fingerprint",), 1),
    ],
)
def test_a_file_whose_content_has_another_form_is_refused(make, images, runs, place, value):
    make().fit(images)
    [path] = runs.iterdir()
    kept = inner = checkpoint.read_archive(path, checkpoint.KIND)
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    checkpoint.write_archive(path, checkpoint.KIND, kept)
    with pytest.raises(ValueError, match=f"content/{'/'.join(place)}.* To train from the start, delete it"):
        make().fit(images)


# ------------------------------------------------------------------ random_state


def test_without_a_random_state_only_an_interrupted_fit_goes_on(often, make, images):
    with pytest.raises(RuntimeError, match="switched off"):
        make(random_state=None, callbacks=[At(6, die)]).fit(images)
    with pytest.warns(UserWarning, match=f"{GOES_ON} 5 steps"):
        first = make(random_state=None).fit(images)
    anew = make(random_state=None).fit(images)
    assert anew.history_[0]["train_loss"] != first.history_[0]["train_loss"]


def test_a_fit_that_draws_anew_replaces_a_finished_one_and_is_gone_on_with(often, make, images):
    make(random_state=None).fit(images)
    with pytest.raises(RuntimeError, match="switched off"):
        make(random_state=None, callbacks=[At(4, die)]).fit(images)
    with pytest.warns(UserWarning, match=f"{GOES_ON} 3 steps"):
        make(random_state=None).fit(images)


def test_a_random_state_moves_on_as_if_there_were_no_file(make, images):
    drawn = np.random.RandomState(0)
    whole = [make(random_state=drawn).fit(images) for _ in range(2)]
    drawn = np.random.RandomState(0)
    for each in whole:
        with pytest.warns(UserWarning, match="is taken from"):
            same_training(make(random_state=drawn).fit(images), each)


# ------------------------------------------------------------------ paths


@pytest.mark.parametrize("given", ["", "a\0b"])
def test_what_is_no_path_is_refused(make, images, given):
    with pytest.raises(ValueError, match=r"checkpoint=.* is not a path. Give a str or a pathlib.Path"):
        make(checkpoint=given).fit(images)


def test_the_home_folder(make, images, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    make(checkpoint="~/runs").fit(images)
    assert len(files(tmp_path / "runs")) == 1
