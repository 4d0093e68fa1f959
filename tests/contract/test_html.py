"""The HTML representation, which notebooks show."""

import pytest

import sklearn_ssl._documentation
import sklearn_ssl._embedder


def test_parameters_link_to_the_documentation_that_the_package_names(embedder, monkeypatch):
    monkeypatch.setattr(sklearn_ssl._embedder, "documentation_url", lambda: "https://docs.example/stable")
    page = "https://docs.example/stable/generated/sklearn_ssl.SSLImageEmbedder.html"
    assert embedder()._get_doc_link() == page
    assert f'href="{page}"' in embedder()._repr_html_()
    monkeypatch.setattr(sklearn_ssl._embedder, "documentation_url", lambda: None)
    assert embedder()._get_doc_link() == ""
    assert "href" not in embedder()._repr_html_()


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        (
            ["Source, https://a.example", "Documentation, https://docs.example/stable/"],
            "https://docs.example/stable",
        ),
        (["Source, https://a.example"], None),
        ([], None),
    ],
)
def test_the_documentation_is_a_url_of_the_package(urls, expected, monkeypatch):
    class Metadata:
        def get_all(self, name):
            return urls if name == "Project-URL" else None

    monkeypatch.setattr(sklearn_ssl._documentation.metadata, "metadata", lambda name: Metadata())
    assert sklearn_ssl._documentation.documentation_url.__wrapped__() == expected


def test_a_fitted_embedder_shows_what_was_resolved_and_the_last_results(embedder, images, labels):
    pytest.importorskip("sklearn.utils._repr_html.fitted_attributes", reason="scikit-learn before 1.9")
    fitted = embedder(validation_fraction=0.5, eval_metrics="rankme").fit(images)
    html = fitted._repr_html_()
    for name in ("augment_", "lr_", "backbone_", "device_"):
        assert name in html
    for name in ("train_loss", "valid_loss", "rankme", "images_per_second"):
        assert f"history_[-1][&quot;{name}&quot;]" in html
    assert f"{fitted.history_[-1]['rankme']:.4g}" in html
    assert "history_[-1]" not in embedder()._repr_html_()
