"""The output of `verbose`."""

import re

import pytest


def test_a_fit_shows_loss_name_share_and_speed(embedder, images, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # a narrow terminal's bar is cut
    embedder(loss="vicreg", max_epochs=2, verbose=1).fit(images)
    shown = capsys.readouterr()
    assert shown.out == ""
    last = shown.err.rstrip().rpartition("\r")[2]
    assert re.fullmatch(
        r"vicreg 100%\|█{24}\| \d\d:\d\d<\d\d:\d\d, epoch 2, [\d,]+ images/s, loss [\d.]+", last
    )


@pytest.mark.usefixtures("clock")
def test_the_bar_ends_with_the_time(embedder, images, capsys):
    embedder(max_epochs="auto", max_time=0.3, verbose=1).fit(images)
    last = capsys.readouterr().err.rstrip().rpartition("\r")[2]
    share = int(re.search(r"ntxent +(\d+)%", last)[1])
    assert 1 <= share <= 100


def test_without_verbose_nothing_is_shown(embedder, images, capsys):
    embedder().fit_transform(images)
    assert capsys.readouterr() == ("", "")


def test_a_short_transform_shows_nothing_either(embedder, images, capsys):
    fitted = embedder().fit(images)
    fitted.set_params(verbose=1).transform(images)
    assert capsys.readouterr() == ("", "")


def test_a_long_transform_counts_images(embedder, tiny, images, draw_images, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])

    class Slow(tiny):
        def forward(self, x):
            now[0] += 0 if self.training else 0.6
            return super().forward(x)

    fitted = embedder(backbone=Slow).fit(images).set_params(verbose=1)
    fitted.transform(draw_images(600))  # three chunks of 0.6 s; the bar appears after 1 s
    last = capsys.readouterr().err.rstrip().rpartition("\r")[2]
    assert re.match(r"embedding: 100%\|█+\| 600/600 .* images/s\]", last)


def test_a_fit_that_was_watched_can_be_fitted_again(embedder, images, capsys):
    watched = embedder(verbose=1)
    watched.fit(images).fit(images)
    assert capsys.readouterr().err.count("100%") >= 2
