"""A log as three tables: schema, checks, downloads, and one module per real log."""

from urlm_helpers.data.cleaning import clean
from urlm_helpers.data.datasets import CountError, load, names, overview
from urlm_helpers.data.download import DownloadError, Source, fetch
from urlm_helpers.data.frames import from_frames
from urlm_helpers.data.schema import DataCard, Dataset, Schema, SchemaError
