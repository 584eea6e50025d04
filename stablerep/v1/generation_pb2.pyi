import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Recipe(_message.Message):
    __slots__ = ("model", "revision", "sampler", "steps", "guidance_scale", "image_size", "save_size", "images_per_caption", "batch_images", "jpeg_quality", "dtype", "digest", "layout", "guidance_until", "schedule")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SAMPLER_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    SAVE_SIZE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_PER_CAPTION_FIELD_NUMBER: _ClassVar[int]
    BATCH_IMAGES_FIELD_NUMBER: _ClassVar[int]
    JPEG_QUALITY_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_UNTIL_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    model: str
    revision: str
    sampler: str
    steps: int
    guidance_scale: float
    image_size: int
    save_size: int
    images_per_caption: int
    batch_images: int
    jpeg_quality: int
    dtype: str
    digest: str
    layout: str
    guidance_until: float
    schedule: str
    def __init__(self, model: _Optional[str] = ..., revision: _Optional[str] = ..., sampler: _Optional[str] = ..., steps: _Optional[int] = ..., guidance_scale: _Optional[float] = ..., image_size: _Optional[int] = ..., save_size: _Optional[int] = ..., images_per_caption: _Optional[int] = ..., batch_images: _Optional[int] = ..., jpeg_quality: _Optional[int] = ..., dtype: _Optional[str] = ..., digest: _Optional[str] = ..., layout: _Optional[str] = ..., guidance_until: _Optional[float] = ..., schedule: _Optional[str] = ...) -> None: ...

class CaptionSource(_message.Message):
    __slots__ = ("uri", "upload_id", "format", "column", "limit", "header")
    URI_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    uri: str
    upload_id: str
    format: str
    column: str
    limit: int
    header: bool
    def __init__(self, uri: _Optional[str] = ..., upload_id: _Optional[str] = ..., format: _Optional[str] = ..., column: _Optional[str] = ..., limit: _Optional[int] = ..., header: _Optional[bool] = ...) -> None: ...

class CaptionReport(_message.Message):
    __slots__ = ("lines", "captions", "empty", "too_long", "bad_encoding", "missing_column", "malformed")
    LINES_FIELD_NUMBER: _ClassVar[int]
    CAPTIONS_FIELD_NUMBER: _ClassVar[int]
    EMPTY_FIELD_NUMBER: _ClassVar[int]
    TOO_LONG_FIELD_NUMBER: _ClassVar[int]
    BAD_ENCODING_FIELD_NUMBER: _ClassVar[int]
    MISSING_COLUMN_FIELD_NUMBER: _ClassVar[int]
    MALFORMED_FIELD_NUMBER: _ClassVar[int]
    lines: int
    captions: int
    empty: int
    too_long: int
    bad_encoding: int
    missing_column: int
    malformed: int
    def __init__(self, lines: _Optional[int] = ..., captions: _Optional[int] = ..., empty: _Optional[int] = ..., too_long: _Optional[int] = ..., bad_encoding: _Optional[int] = ..., missing_column: _Optional[int] = ..., malformed: _Optional[int] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("name", "state", "recipe", "source", "seed", "captions_per_shard", "priority", "dataset_url", "shards", "shards_pending", "shards_leased", "shards_done", "shards_dead", "captions", "groups_done", "images_done", "captions_skipped", "caption_report", "create_time", "end_time", "error", "jobs_ahead", "shards_ahead", "expected_start_time", "expected_end_time", "worker_seconds")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Job.State]
        PLANNING: _ClassVar[Job.State]
        RUNNING: _ClassVar[Job.State]
        PAUSED: _ClassVar[Job.State]
        SUCCEEDED: _ClassVar[Job.State]
        FAILED: _ClassVar[Job.State]
        CANCELLED: _ClassVar[Job.State]
    STATE_UNSPECIFIED: Job.State
    PLANNING: Job.State
    RUNNING: Job.State
    PAUSED: Job.State
    SUCCEEDED: Job.State
    FAILED: Job.State
    CANCELLED: Job.State
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CAPTIONS_PER_SHARD_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DATASET_URL_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_PENDING_FIELD_NUMBER: _ClassVar[int]
    SHARDS_LEASED_FIELD_NUMBER: _ClassVar[int]
    SHARDS_DONE_FIELD_NUMBER: _ClassVar[int]
    SHARDS_DEAD_FIELD_NUMBER: _ClassVar[int]
    CAPTIONS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_DONE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_DONE_FIELD_NUMBER: _ClassVar[int]
    CAPTIONS_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    CAPTION_REPORT_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    JOBS_AHEAD_FIELD_NUMBER: _ClassVar[int]
    SHARDS_AHEAD_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_START_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_END_TIME_FIELD_NUMBER: _ClassVar[int]
    WORKER_SECONDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: Job.State
    recipe: Recipe
    source: CaptionSource
    seed: int
    captions_per_shard: int
    priority: int
    dataset_url: str
    shards: int
    shards_pending: int
    shards_leased: int
    shards_done: int
    shards_dead: int
    captions: int
    groups_done: int
    images_done: int
    captions_skipped: int
    caption_report: CaptionReport
    create_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    error: str
    jobs_ahead: int
    shards_ahead: int
    expected_start_time: _timestamp_pb2.Timestamp
    expected_end_time: _timestamp_pb2.Timestamp
    worker_seconds: float
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[Job.State, str]] = ..., recipe: _Optional[_Union[Recipe, _Mapping]] = ..., source: _Optional[_Union[CaptionSource, _Mapping]] = ..., seed: _Optional[int] = ..., captions_per_shard: _Optional[int] = ..., priority: _Optional[int] = ..., dataset_url: _Optional[str] = ..., shards: _Optional[int] = ..., shards_pending: _Optional[int] = ..., shards_leased: _Optional[int] = ..., shards_done: _Optional[int] = ..., shards_dead: _Optional[int] = ..., captions: _Optional[int] = ..., groups_done: _Optional[int] = ..., images_done: _Optional[int] = ..., captions_skipped: _Optional[int] = ..., caption_report: _Optional[_Union[CaptionReport, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., error: _Optional[str] = ..., jobs_ahead: _Optional[int] = ..., shards_ahead: _Optional[int] = ..., expected_start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expected_end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., worker_seconds: _Optional[float] = ...) -> None: ...

class UploadCaptionsRequest(_message.Message):
    __slots__ = ("upload_id", "file_name", "offset", "data", "last")
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    file_name: str
    offset: int
    data: bytes
    last: bool
    def __init__(self, upload_id: _Optional[str] = ..., file_name: _Optional[str] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., last: _Optional[bool] = ...) -> None: ...

class Upload(_message.Message):
    __slots__ = ("upload_id", "size", "complete", "file_name")
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    size: int
    complete: bool
    file_name: str
    def __init__(self, upload_id: _Optional[str] = ..., size: _Optional[int] = ..., complete: _Optional[bool] = ..., file_name: _Optional[str] = ...) -> None: ...

class GetUploadRequest(_message.Message):
    __slots__ = ("upload_id",)
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    def __init__(self, upload_id: _Optional[str] = ...) -> None: ...

class CreateJobRequest(_message.Message):
    __slots__ = ("dataset", "preset", "recipe", "source", "seed", "captions_per_shard", "priority", "request_id")
    class RecipeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DATASET_FIELD_NUMBER: _ClassVar[int]
    PRESET_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CAPTIONS_PER_SHARD_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    preset: str
    recipe: _containers.ScalarMap[str, str]
    source: CaptionSource
    seed: int
    captions_per_shard: int
    priority: int
    request_id: str
    def __init__(self, dataset: _Optional[str] = ..., preset: _Optional[str] = ..., recipe: _Optional[_Mapping[str, str]] = ..., source: _Optional[_Union[CaptionSource, _Mapping]] = ..., seed: _Optional[int] = ..., captions_per_shard: _Optional[int] = ..., priority: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class GetJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "filter")
    class Filter(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        FILTER_UNSPECIFIED: _ClassVar[ListJobsRequest.Filter]
        LIVE: _ClassVar[ListJobsRequest.Filter]
        ENDED: _ClassVar[ListJobsRequest.Filter]
    FILTER_UNSPECIFIED: ListJobsRequest.Filter
    LIVE: ListJobsRequest.Filter
    ENDED: ListJobsRequest.Filter
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    filter: ListJobsRequest.Filter
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., filter: _Optional[_Union[ListJobsRequest.Filter, str]] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs", "next_page_token")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    next_page_token: str
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class CancelJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class PauseJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ResumeJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RetryJobRequest(_message.Message):
    __slots__ = ("name", "shards")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    shards: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., shards: _Optional[_Iterable[int]] = ...) -> None: ...

class DeleteJobRequest(_message.Message):
    __slots__ = ("name", "delete_data", "force")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DELETE_DATA_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    delete_data: bool
    force: bool
    def __init__(self, name: _Optional[str] = ..., delete_data: _Optional[bool] = ..., force: _Optional[bool] = ...) -> None: ...

class DeleteJobResponse(_message.Message):
    __slots__ = ("objects_deleted",)
    OBJECTS_DELETED_FIELD_NUMBER: _ClassVar[int]
    objects_deleted: int
    def __init__(self, objects_deleted: _Optional[int] = ...) -> None: ...

class Shard(_message.Message):
    __slots__ = ("name", "number", "state", "worker", "errors", "lost_leases", "error")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Shard.State]
        PENDING: _ClassVar[Shard.State]
        LEASED: _ClassVar[Shard.State]
        DONE: _ClassVar[Shard.State]
        DEAD: _ClassVar[Shard.State]
    STATE_UNSPECIFIED: Shard.State
    PENDING: Shard.State
    LEASED: Shard.State
    DONE: Shard.State
    DEAD: Shard.State
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    LOST_LEASES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    number: int
    state: Shard.State
    worker: str
    errors: int
    lost_leases: int
    error: str
    def __init__(self, name: _Optional[str] = ..., number: _Optional[int] = ..., state: _Optional[_Union[Shard.State, str]] = ..., worker: _Optional[str] = ..., errors: _Optional[int] = ..., lost_leases: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...

class ListShardsRequest(_message.Message):
    __slots__ = ("parent", "state", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    state: Shard.State
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., state: _Optional[_Union[Shard.State, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListShardsResponse(_message.Message):
    __slots__ = ("shards", "next_page_token")
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    shards: _containers.RepeatedCompositeFieldContainer[Shard]
    next_page_token: str
    def __init__(self, shards: _Optional[_Iterable[_Union[Shard, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DescribeCaptionsRequest(_message.Message):
    __slots__ = ("source",)
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    source: CaptionSource
    def __init__(self, source: _Optional[_Union[CaptionSource, _Mapping]] = ...) -> None: ...

class DescribeCaptionsResponse(_message.Message):
    __slots__ = ("format", "encoding", "separator", "column", "header", "first", "report", "whole", "size")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    SEPARATOR_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    format: str
    encoding: str
    separator: str
    column: str
    header: bool
    first: _containers.RepeatedScalarFieldContainer[str]
    report: CaptionReport
    whole: bool
    size: int
    def __init__(self, format: _Optional[str] = ..., encoding: _Optional[str] = ..., separator: _Optional[str] = ..., column: _Optional[str] = ..., header: _Optional[bool] = ..., first: _Optional[_Iterable[str]] = ..., report: _Optional[_Union[CaptionReport, _Mapping]] = ..., whole: _Optional[bool] = ..., size: _Optional[int] = ...) -> None: ...

class ListWorkersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Worker(_message.Message):
    __slots__ = ("name", "state", "shard", "shards_done", "images_done", "images_per_second", "card", "model", "address", "version", "report_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SHARDS_DONE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_DONE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REPORT_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: str
    shard: str
    shards_done: int
    images_done: int
    images_per_second: float
    card: str
    model: str
    address: str
    version: str
    report_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., shard: _Optional[str] = ..., shards_done: _Optional[int] = ..., images_done: _Optional[int] = ..., images_per_second: _Optional[float] = ..., card: _Optional[str] = ..., model: _Optional[str] = ..., address: _Optional[str] = ..., version: _Optional[str] = ..., report_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListWorkersResponse(_message.Message):
    __slots__ = ("workers",)
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedCompositeFieldContainer[Worker]
    def __init__(self, workers: _Optional[_Iterable[_Union[Worker, _Mapping]]] = ...) -> None: ...

class ReconcileJobsRequest(_message.Message):
    __slots__ = ("name", "verify")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    name: str
    verify: bool
    def __init__(self, name: _Optional[str] = ..., verify: _Optional[bool] = ...) -> None: ...

class ReconcileJobsResponse(_message.Message):
    __slots__ = ("name", "state", "shards", "shards_done", "shards_dead", "shards_missing", "shards_torn", "shards_indexed", "problems")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_DONE_FIELD_NUMBER: _ClassVar[int]
    SHARDS_DEAD_FIELD_NUMBER: _ClassVar[int]
    SHARDS_MISSING_FIELD_NUMBER: _ClassVar[int]
    SHARDS_TORN_FIELD_NUMBER: _ClassVar[int]
    SHARDS_INDEXED_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: Job.State
    shards: int
    shards_done: int
    shards_dead: int
    shards_missing: int
    shards_torn: int
    shards_indexed: int
    problems: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[Job.State, str]] = ..., shards: _Optional[int] = ..., shards_done: _Optional[int] = ..., shards_dead: _Optional[int] = ..., shards_missing: _Optional[int] = ..., shards_torn: _Optional[int] = ..., shards_indexed: _Optional[int] = ..., problems: _Optional[_Iterable[str]] = ...) -> None: ...
