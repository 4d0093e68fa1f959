import re
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import joblib
import pytest
import torch

from sklearn_ssl import SSLImageEmbedder
from sklearn_ssl.losses import _registry as registry
from sklearn_ssl.losses._base import SSLLoss
from sklearn_ssl.losses._ntxent import NTXent
from sklearn_ssl.losses._registry import available_losses, get_loss, register_loss

GOOD = '''
from sklearn_ssl.losses import SSLLoss

class Far(SSLLoss):
    """Views as far apart as can be.

    Not a good idea.
    """

    family = "nonsense"

    def forward(self, z1, z2):
        return -(z1 - z2).norm()

class Silent(Far):
    pass

def near(z1, z2, *, power=2.0):
    return (z1 - z2).abs().pow(power).mean()
'''


def install(folder: Path, distribution: str, entries: str, code: str = GOOD, version: str = "1.5") -> str:
    """Write a package to disk as pip installs it; its module has the distribution's name."""
    module = distribution.replace("-", "_")
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[sklearn_ssl.losses]\n{entries}\n")
    (folder / f"{module}.py").write_text(code)
    return module


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Add a folder for packages to the path, and forget afterwards what was imported from it."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (tmp_path / f"{name}.py").exists():
            del sys.modules[name]


@pytest.fixture
def registered(monkeypatch):
    """Forget the names given to `register_loss` after the test."""
    monkeypatch.setattr(registry, "_registered", {})


def test_the_built_in_losses_are_entry_points_of_this_distribution():
    losses = available_losses()
    for name in ("dcl", "ntxent", "vicreg"):
        assert losses[name].distribution == "sklearn-ssl"
        assert losses[name].target.startswith("sklearn_ssl.losses:")
    assert get_loss("ntxent") is get_loss("sklearn-ssl:ntxent") is get_loss("sklearn_ssl:ntxent") is NTXent


def test_the_listing_is_sorted_and_read_only(site):
    install(site, "ssl-aaa", "zzz = ssl_aaa:Far\naaa = ssl_aaa:near")
    losses = available_losses()
    assert list(losses) == sorted(losses)
    assert {"aaa", "zzz"} < set(losses)
    with pytest.raises(TypeError, match="does not support item assignment"):
        losses["mine"] = None


def test_an_installed_plugin_is_listed_without_being_imported(site):
    module = install(site, "ssl-far", "far = ssl_far:Far")
    info = available_losses()["far"]
    assert (info.name, info.distribution, info.version, info.target) == (
        "far",
        "ssl-far",
        "1.5",
        "ssl_far:Far",
    )
    assert info.family is info.summary is info.error is None
    assert module not in sys.modules
    assert get_loss("far").__name__ == "Far"
    assert module in sys.modules


def test_a_plugin_may_be_a_function(site):
    install(site, "ssl-near", "near = ssl_near:near")
    assert get_loss("near")(torch.tensor([1.0]), torch.tensor([4.0])) == 9.0  # (4 - 1)^2


def test_a_plugin_installed_while_the_session_runs_is_seen(site):
    install(site, "ssl-first", "first = ssl_first:Far")
    assert "first" in available_losses()
    assert "second" not in available_losses()
    install(site, "ssl-second", "second = ssl_second:Far")
    assert get_loss("second").__module__ == "ssl_second"


def test_details_give_family_and_summary(site):
    install(
        site, "ssl-detailed", "far = ssl_detailed:Far\nnear = ssl_detailed:near\nsilent = ssl_detailed:Silent"
    )
    losses = available_losses(details=True)
    assert (losses["far"].family, losses["far"].summary) == ("nonsense", "Views as far apart as can be.")
    assert (losses["near"].family, losses["near"].summary) == ("ssl-detailed", None)
    assert losses["silent"].summary is None  # and not that of the class it inherits from


def test_details_give_the_parameters_and_summaries_without_references():
    losses = available_losses(details=True)
    assert losses["ntxent"].parameters == {"temperature": 0.5, "local_crops": 0, "local_size": 0.5}
    assert available_losses()["ntxent"].parameters is None
    assert "[1]" not in losses["ntxent"].summary


def test_notebooks_show_the_losses_as_a_table(site):
    install(site, "ssl-odd", "odd = ssl_odd:Odd", code=f"{GOOD}\nclass Odd(Far):\n    '''A <b> & more.'''")
    html = available_losses(details=True)._repr_html_()
    for column in ("loss", "family", "summary", "parameters", "distribution"):
        assert f"<th>{column}</th>" in html
    assert html.count("<tr>") == 1 + len(available_losses())
    assert "temperature=0.5" in html
    assert "A &lt;b&gt; &amp; more." in html
    assert "<th>summary</th>" not in available_losses()._repr_html_()


def test_a_broken_plugin_fails_only_when_it_is_used(site):
    install(site, "ssl-broken", "broken = ssl_broken:Far", code="import a_module_that_nobody_has")
    assert available_losses()["broken"].error is None
    assert get_loss("ntxent") is NTXent

    with pytest.raises(ImportError) as caught:
        get_loss("broken")
    assert str(caught.value) == (
        "The loss 'broken' of ssl-broken 1.5 (ssl_broken:Far) cannot be used: ModuleNotFoundError:"
        " No module named 'a_module_that_nobody_has'. Update or uninstall that package;"
        " other losses are not affected."
    )
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)

    losses = available_losses(details=True)
    assert losses["broken"].error == str(caught.value)
    assert losses["ntxent"].error is None
    assert losses["ntxent"].summary


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("Nowhere", "AttributeError: module 'ssl_wrong' has no attribute 'Nowhere'"),
        ("NUMBER", "TypeError: a loss is a subclass of SSLLoss or nn.Module, or a function, got 3."),
        ("Plain", "TypeError: a loss is a subclass of SSLLoss or nn.Module, or a function, got <class"),
    ],
)
def test_a_plugin_whose_target_is_no_loss_says_so(site, target, cause):
    install(site, "ssl-wrong", f"wrong = ssl_wrong:{target}", code="NUMBER = 3\nclass Plain: pass")
    with pytest.raises(ImportError) as caught:
        get_loss("wrong")
    assert f"'wrong' of ssl-wrong 1.5 (ssl_wrong:{target}) cannot be used: {cause}" in str(caught.value)


def test_any_exception_in_a_plugin_is_reported_with_its_package(site):
    install(site, "ssl-raises", "raises = ssl_raises:Far", code="1 / 0")
    with pytest.raises(ImportError, match=r"ssl-raises 1\.5 .* ZeroDivisionError: division by zero"):
        get_loss("raises")


def test_a_plugin_that_ends_the_process_at_import_is_a_broken_plugin(site):
    install(site, "ssl-exit", "exit = ssl_exit:Far", code="import sys; sys.exit('no license')")
    assert "SystemExit: no license" in available_losses(details=True)["exit"].error
    with pytest.raises(ImportError, match=r"ssl-exit 1\.5 .* cannot be used: SystemExit: no license\."):
        get_loss("exit")
    embedder = SSLImageEmbedder(loss="exit")
    assert not [name for name in embedder.get_params() if name.startswith("loss__")]
    assert repr(embedder) == "SSLImageEmbedder(loss='exit')"


def test_ctrl_c_while_a_plugin_is_imported_ends_the_import(site):
    install(site, "ssl-slow", "slow = ssl_slow:Far", code="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        get_loss("slow")


@pytest.mark.parametrize("finder", ["of Python", "of importlib_metadata"])
def test_the_rest_of_an_installation_hurts_no_other(site, monkeypatch, finder):
    if finder == "of importlib_metadata":  # which dask and others import
        plain = metadata.PathDistribution.metadata

        def or_error(distribution):
            if not any(map(distribution.read_text, ("METADATA", "PKG-INFO"))):
                raise FileNotFoundError("No package metadata was found.")
            return plain.fget(distribution)

        monkeypatch.setattr(metadata.PathDistribution, "metadata", property(or_error))
    install(site, "ssl-good", "good = ssl_good:Far")
    install(site, "ssl-rest", "rest = ssl_rest:Far\nntxent = ssl_rest:Far")
    (site / "ssl_rest-1.5.dist-info" / "METADATA").unlink()
    assert "good" in available_losses()
    assert "rest" not in available_losses()
    assert get_loss("ntxent") is NTXent
    with pytest.raises(ValueError, match="Unknown loss 'rest'"):
        get_loss("rest")


def test_a_name_with_a_colon_is_found_behind_its_distribution(site):
    install(site, "ssl-colon", "a:b = ssl_colon:Far")
    assert available_losses(details=True)["ssl-colon:a:b"].family == "nonsense"
    assert get_loss("ssl-colon:a:b").__name__ == "Far"


def test_of_two_packages_with_one_name_the_user_says_which(site):
    install(site, "ssl-left", "twin = ssl_left:Far")
    install(site, "ssl-right", "twin = ssl_right:Far", version="2.0")
    with pytest.raises(ValueError) as caught:
        get_loss("twin")
    message = str(caught.value)
    assert message.startswith("Several packages have a loss 'twin': ")
    assert "ssl-left 1.5" in message
    assert "ssl-right 2.0" in message
    assert "'ssl-left:twin'" in message
    assert get_loss("ssl-right:twin").__module__ == "ssl_right"

    losses = available_losses()
    assert "twin" not in losses
    assert losses["ssl-left:twin"].target == "ssl_left:Far"
    assert losses["ssl-right:twin"].name == "ssl-right:twin"


def test_a_plugin_cannot_take_over_a_built_in(site):
    install(site, "ssl-thief", "ntxent = ssl_thief:Far")
    assert get_loss("ntxent") is NTXent
    assert available_losses()["ntxent"].distribution == "sklearn-ssl"
    assert available_losses()["ssl-thief:ntxent"].target == "ssl_thief:Far"
    assert get_loss("ssl-thief:ntxent").__module__ == "ssl_thief"


def test_a_distribution_that_is_on_the_path_twice_counts_once(site, monkeypatch):
    install(site, "ssl-twice", "twice = ssl_twice:Far")
    again = site / "again"
    install(again, "ssl-twice", "twice = ssl_twice:Far", version="0.9")
    monkeypatch.syspath_prepend(again)
    assert available_losses()["twice"].version == "0.9"
    assert get_loss("twice").__name__ == "Far"


def test_an_unknown_name_is_answered_with_the_nearest_and_all_there_are():
    with pytest.raises(ValueError) as caught:
        get_loss("ntxnt")
    message = str(caught.value)
    assert message.startswith("Unknown loss 'ntxnt'. Did you mean 'ntxent'? Available: ")
    assert ", ".join(available_losses()) in message
    assert " A package adds one by an entry point in the group 'sklearn_ssl.losses'. " in message
    assert message.endswith("in worker processes pass the class itself, loss=MyLoss.")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *[(name, "ntxent") for name in ("simclr", "SimCLR", "NTXent", "NT-Xent", "NTXentLoss", "nt_xent")],
        *[(name, "infonce") for name in ("infoNCE", "InfoNCE", "InfoNCELoss", "info_nce")],
        *[(name, "barlow_twins") for name in ("BarlowTwins", "barlow-twins", "Barlow Twins", "barlow")],
        *[("VICReg", "vicreg"), ("VICRegLoss", "vicreg"), ("DCL", "dcl"), ("decoupled contrastive", "dcl")],
        *[("MoCo", "moco"), ("MoCo v2", "moco"), ("W-MSE", "wmse"), ("SwAV", "swav"), ("BYOL", "byol")],
        *[("SupContrast", "supcon"), ("Masked Autoencoder", "mae"), ("RotNet", "rotation")],
    ],
)
def test_the_papers_names_lead_to_the_loss(name, meant):
    with pytest.raises(ValueError, match=rf"^Unknown loss '{name}'\. Did you mean '{meant}'\?"):
        get_loss(name)


def test_every_other_name_leads_to_a_loss_and_is_spelled_plainly():
    packages, other_names = registry.known_losses()
    assert set(other_names.values()) <= {*packages, "dcl", "ntxent", "vicreg"}
    assert all(re.fullmatch("[a-z0-9]+", name) and not name.endswith("loss") for name in other_names)


def test_a_name_that_resembles_nothing_gets_no_suggestion():
    with pytest.raises(ValueError, match=r"^Unknown loss 'qqqqqq'\. Available: "):
        get_loss("qqqqqq")


def test_a_known_plugin_that_is_not_installed_is_answered_with_its_install_line(monkeypatch):
    monkeypatch.setattr(registry, "known_losses", lambda: ({"far_away": "sklearn-ssl-far-away"}, {}))
    with pytest.raises(ValueError) as caught:
        get_loss("far_away")
    assert (
        "Unknown loss 'far_away'. 'far_away' is in the package sklearn-ssl-far-away:"
        " pip install ./plugins/sklearn-ssl-far-away. Available: "
    ) in str(caught.value)
    with pytest.raises(ValueError, match=r"Did you mean 'far_away'\?"):
        get_loss("faraway")


@pytest.mark.usefixtures("registered")
def test_register_loss_is_a_function_and_a_decorator():
    @register_loss("mine")
    class Mine(SSLLoss):
        """My own."""

    def pair(z1, z2):
        return (z1 * z2).sum()

    assert register_loss("pair", pair) is pair
    assert get_loss("mine") is Mine
    assert get_loss("pair") is pair
    assert available_losses()["mine"].target.endswith("<locals>.Mine")
    mine = available_losses(details=True)["mine"]
    assert (mine.distribution, mine.version, mine.family, mine.summary) == ("", "", None, "My own.")


@pytest.mark.usefixtures("registered")
def test_a_name_that_is_registered_again_means_the_last():
    class First(SSLLoss):
        pass

    class Second(SSLLoss):
        pass

    register_loss("again", First)
    register_loss("again", Second)
    assert get_loss("again") is Second


@pytest.mark.usefixtures("registered")
def test_register_loss_cannot_take_over_an_installed_name(site):
    install(site, "ssl-owner", "owned = ssl_owner:Far")
    with pytest.raises(
        ValueError, match=r"^'ntxent' is a loss of sklearn-ssl .* cannot be taken over: choose another"
    ):
        register_loss("ntxent", NTXent)
    with pytest.raises(ValueError, match=r"^'owned' is a loss of ssl-owner 1\.5 and cannot be taken over"):
        register_loss("owned", NTXent)


@pytest.mark.usefixtures("registered")
def test_register_loss_refuses_what_is_no_loss():
    with pytest.raises(
        TypeError, match=r"a loss is a subclass of SSLLoss or nn\.Module, or a function, got 'ntxent'"
    ):
        register_loss("mine", "ntxent")


@pytest.mark.usefixtures("registered")
def test_a_worker_process_does_not_know_a_registered_name_and_says_what_to_do():
    register_loss("mine", NTXent)
    assert get_loss("mine") is NTXent
    words = (
        "Unknown loss 'mine'.* exists only in the process that registered it: in worker processes pass the"
    )
    with pytest.raises(ValueError, match=words):
        joblib.Parallel(n_jobs=2)([joblib.delayed(get_loss)("mine")])


def test_importing_the_package_neither_scans_for_plugins_nor_imports_one(site):
    module = install(site, "ssl-sleeper", "sleeper = ssl_sleeper:Far")
    program = f"""
        import sys
        from importlib import metadata

        scanned, scan = [], metadata.entry_points
        def watch(**selection):
            scanned.append(selection.get("group"))
            return scan(**selection)
        metadata.entry_points = watch  # torch scans for its own group

        sys.path.insert(0, {str(site)!r})
        import sklearn_ssl
        from sklearn_ssl.losses._registry import available_losses
        assert "sklearn_ssl.losses" not in scanned, scanned
        assert "sleeper" in available_losses()
        assert scanned.count("sklearn_ssl.losses") == 1, scanned
        available_losses()
        assert scanned.count("sklearn_ssl.losses") == 1, scanned
        assert {module!r} not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
