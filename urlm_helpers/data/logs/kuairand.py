"""KuaiRand-Pure: short videos shown on 15 tabs of an app, with several feedbacks each.

The columns are those of the data descriptions on https://kuairand.com.
"""

from dataclasses import replace

import pandas as pd

from urlm_helpers.data.download import fetch
from urlm_helpers.data.frames import from_frames
from urlm_helpers.data.schema import Dataset, Schema
from urlm_helpers.data.sheets import card, source

SOURCE = source("kuairand-pure")
*LOGS, USERS, VIDEOS = SOURCE.files
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
        card=replace(card("kuairand-pure"), counts=counts),
    )


def _with_all_ids(features: pd.DataFrame, ids: pd.Series) -> pd.DataFrame:
    """Add a row without features for each id of the log that has none."""
    known = pd.DataFrame({ids.name: ids.unique()})
    return features.merge(known, how="outer", on=str(ids.name))
