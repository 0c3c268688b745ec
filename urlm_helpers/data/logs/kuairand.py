"""KuaiRand-Pure: short videos shown on 15 tabs of an app, with several feedbacks each.

The columns are those of the data descriptions on https://kuairand.com.
"""

from dataclasses import replace

import pandas as pd

from urlm_helpers.data.download import Source, fetch
from urlm_helpers.data.frames import from_frames
from urlm_helpers.data.schema import DataCard, Dataset, Schema

LOGS = (
    "data/log_standard_4_08_to_4_21_pure.csv",
    "data/log_standard_4_22_to_5_08_pure.csv",
    "data/log_random_4_22_to_5_08_pure.csv",
)
USERS = "data/user_features_pure.csv"
VIDEOS = "data/video_features_basic_pure.csv"
SOURCE = Source(
    title="KuaiRand-Pure",
    url="https://zenodo.org/records/10439422/files/KuaiRand-Pure.tar.gz",
    folder="KuaiRand-Pure",
    files=(*LOGS, USERS, VIDEOS),
    license="CC BY-SA 4.0 (name the authors, share changed data alike)",
    checksum="md5:0820331067a3784d9691136f772b35a7",
    size=45_200_000,
    counts={
        "standard impressions": 1_436_609,
        "random impressions": 1_186_059,
        "users": 27_285,
        "videos": 7_583,
    },
)
TASKS = {
    "is_click": "click",
    "long_view": "long_view",
    "is_like": "like",
    "is_follow": "follow",
    "is_comment": "comment",
    "is_forward": "forward",
}
USER_CATEGORICAL = (
    "user_active_degree",
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
    *(f"onehot_feat{i}" for i in range(18)),
)
ITEM_CATEGORICAL = ("author_id", "video_type", "upload_type", "music_type", "tag")
CARD = DataCard(
    title="KuaiRand-Pure",
    origin="Logs of the Kuaishou app, 8 April to 8 May 2022, on 7,583 videos. From 22 "
    "April on a small share of the videos shown was replaced by random ones.",
    license="CC BY-SA 4.0: use, also commercial, with the authors named; data made of "
    "it must be shared on the same terms.",
    citation="C. Gao, S. Li, Y. Zhang, J. Chen, B. Li, W. Lei, P. Jiang and X. He. "
    "KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed "
    "Videos. CIKM 2022. doi:10.1145/3511808.3557624",
    known_problems=(
        "`click` means a tap where the app shows two columns, and 'played for more "
        "than 7 s or to the end' where it shows one; the log does not say which. "
        "Nothing rules out a like without a click, so no funnel is declared.",
        "Only 7,583 videos are kept, so a user's sequence has gaps; the authors advise "
        "against this version for sequential models.",
        "The rows with `is_rand` = 1 come from another policy than the rest: don't mix "
        "them without thought. They are what unbiased evaluation needs.",
        "The file with video statistics is left out: it averages the whole month, so "
        "it contains the outcomes that are to be predicted. So is `visible_status`, "
        "the state of a video after the month.",
        "The user features are one undated snapshot; negative codes (such as -124) "
        "stand for unknown.",
        "`time` is UTC; `hour` is the clock of the log (China). Which page of the "
        "app a tab is, is not published.",
    ),
)


def build() -> Dataset:
    """Read KuaiRand-Pure, fetching it when it is not in the cache.

    Returns
    -------
    Dataset
        Scenario "tab0" to "tab14"; the flag `is_rand` (randomly shown) is kept as a
        column. ``card.counts`` holds the numbers of `standard impressions`, `random
        impressions`, `users` and `videos` in the logs.
    """
    folder = fetch(SOURCE)
    columns = ["user_id", "video_id", "time_ms", "hourmin", "is_rand", "tab", *TASKS]
    log = pd.concat(
        [pd.read_csv(folder / name, usecols=columns) for name in LOGS],
        ignore_index=True,
    ).rename(columns={"user_id": "user", "video_id": "item", **TASKS})
    log["scenario"] = "tab" + log["tab"].astype(str)
    log["time"] = pd.to_datetime(log["time_ms"], unit="ms")
    log["hour"] = log["hourmin"] // 100
    log = log[
        ["user", "item", "scenario", "time", *TASKS.values(), "hour", "is_rand"]
    ].sort_values("time", kind="stable")
    users = pd.read_csv(folder / USERS, usecols=["user_id", *USER_CATEGORICAL])
    users = _with_all_ids(users.rename(columns={"user_id": "user"}), log["user"])
    items = pd.read_csv(
        folder / VIDEOS,
        usecols=["video_id", *ITEM_CATEGORICAL, "video_duration"],
        dtype={"tag": str},
    )
    items["tag"] = items["tag"].str.split(",").str[0]  # the first of a few
    items["video_duration"] = items["video_duration"] / 1000  # seconds
    items = _with_all_ids(items.rename(columns={"video_id": "item"}), log["item"])
    randomly = int(log["is_rand"].sum())
    counts = {
        "standard impressions": len(log) - randomly,
        "random impressions": randomly,
        "users": log["user"].nunique(),
        "videos": log["item"].nunique(),
    }
    return from_frames(
        log,
        users,
        items,
        schema=Schema(
            scenarios=tuple(f"tab{i}" for i in range(15)),
            tasks=tuple(TASKS.values()),
            user_categorical=USER_CATEGORICAL,
            item_categorical=ITEM_CATEGORICAL,
            item_numeric=("video_duration",),
            context_categorical=("hour",),
        ),
        name="kuairand-pure",
        card=replace(CARD, counts=counts),
    )


def _with_all_ids(features: pd.DataFrame, ids: pd.Series) -> pd.DataFrame:
    """Add a row without features for each id of the log that has none."""
    known = pd.DataFrame({ids.name: ids.unique()})
    return features.merge(known, how="outer", on=str(ids.name))
