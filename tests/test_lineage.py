"""A model says what it was made with, where that can be found out."""

import subprocess

import numpy as np

from hapredict.control.ray_lineage import commit_of, libraries


def git(folder, *words):
    author = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    command = ["git", "-C", str(folder), *author, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_the_checkout_around_a_folder(tmp_path):
    assert commit_of(tmp_path) == ""
    git(tmp_path, "init", "-q")
    assert commit_of(tmp_path) == ""
    file = tmp_path / "spec.yaml"
    file.write_text("name: one")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    home = tmp_path / "deep" / "home"
    home.mkdir(parents=True)
    assert commit_of(home) == git(tmp_path, "rev-parse", "HEAD")
    git(tmp_path, "tag", "v1")
    file.write_text("name: two")
    assert commit_of(home) == git(tmp_path, "rev-parse", "HEAD") + "-dirty"
    assert commit_of(tmp_path / "gone") == ""


def test_libraries_are_those_that_fit_the_family():
    network, trees = libraries("network"), libraries("trees")
    assert network["numpy"] == trees["numpy"] == np.__version__
    assert network["keras"]
    assert "keras" not in trees
    assert "xgboost" in trees
