from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PreviewGroupRequest(_message.Message):
    __slots__ = ("caption", "preset", "recipe", "seed", "caption_id")
    class RecipeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CAPTION_FIELD_NUMBER: _ClassVar[int]
    PRESET_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CAPTION_ID_FIELD_NUMBER: _ClassVar[int]
    caption: str
    preset: str
    recipe: _containers.ScalarMap[str, str]
    seed: int
    caption_id: int
    def __init__(self, caption: _Optional[str] = ..., preset: _Optional[str] = ..., recipe: _Optional[_Mapping[str, str]] = ..., seed: _Optional[int] = ..., caption_id: _Optional[int] = ...) -> None: ...

class PreviewGroupResponse(_message.Message):
    __slots__ = ("images", "recipe_digest")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    RECIPE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedScalarFieldContainer[bytes]
    recipe_digest: str
    def __init__(self, images: _Optional[_Iterable[bytes]] = ..., recipe_digest: _Optional[str] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GeneratorStatus(_message.Message):
    __slots__ = ("worker", "state", "shard", "shards_done", "images_done", "recipe_digest")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[GeneratorStatus.State]
        LOADING: _ClassVar[GeneratorStatus.State]
        IDLE: _ClassVar[GeneratorStatus.State]
        GENERATING: _ClassVar[GeneratorStatus.State]
        DRAINING: _ClassVar[GeneratorStatus.State]
    STATE_UNSPECIFIED: GeneratorStatus.State
    LOADING: GeneratorStatus.State
    IDLE: GeneratorStatus.State
    GENERATING: GeneratorStatus.State
    DRAINING: GeneratorStatus.State
    WORKER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SHARDS_DONE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_DONE_FIELD_NUMBER: _ClassVar[int]
    RECIPE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    worker: str
    state: GeneratorStatus.State
    shard: str
    shards_done: int
    images_done: int
    recipe_digest: str
    def __init__(self, worker: _Optional[str] = ..., state: _Optional[_Union[GeneratorStatus.State, str]] = ..., shard: _Optional[str] = ..., shards_done: _Optional[int] = ..., images_done: _Optional[int] = ..., recipe_digest: _Optional[str] = ...) -> None: ...
