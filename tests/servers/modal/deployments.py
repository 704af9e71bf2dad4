"""What `modal deploy` sends: environments, apps, mounts, images, volumes, functions and classes."""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.servers.modal.ledger import Ledger, new_id
from tests.servers.modal.rpc import Handler, Headers

BUILDER = "2025.06"


@dataclass
class App:
    """A deployed app: what is published under which name."""

    id: str
    name: str = ""
    function_ids: dict[str, str] = field(default_factory=dict)
    class_ids: dict[str, str] = field(default_factory=dict)
    publications: int = 0


@dataclass
class Function:
    """`definition` is that of its first choice of GPU; `gpus` are all of them, in order."""

    id: str
    app_id: str
    definition: api_pb2.Function
    data: api_pb2.FunctionData
    gpus: list[str]
    version: str = field(default_factory=lambda: new_id("de"))

    @property
    def handle(self) -> api_pb2.FunctionHandleMetadata:
        """What the SDK needs to know to call it."""
        one = self.definition
        return api_pb2.FunctionHandleMetadata(
            function_name=one.function_name,
            function_type=one.function_type,
            is_method=one.is_method,
            class_parameter_info=one.class_parameter_info,
            definition_id=self.version,
            method_handle_metadata={
                name: api_pb2.FunctionHandleMetadata(
                    function_name=method.function_name,
                    function_type=method.function_type,
                    is_method=True,
                    use_method_name=name,
                    function_schema=method.function_schema,
                    supported_input_formats=method.supported_input_formats,
                    supported_output_formats=method.supported_output_formats,
                    app_id=self.app_id,
                )
                for name, method in one.method_definitions.items()
            },
            function_schema=one.function_schema,
            supported_input_formats=one.supported_input_formats,
            supported_output_formats=one.supported_output_formats,
            app_id=self.app_id,
        )


class Deployments:
    """Apps by id, functions by id. `files` are what was uploaded, by sha256."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.apps: dict[str, App] = {}
        self.functions: dict[str, Function] = {}
        self.images: dict[str, api_pb2.Image] = {}
        self.volumes: dict[str, str] = {}
        self.files: dict[str, bytes] = {}

    @property
    def handlers(self) -> dict[str, Handler]:
        """By RPC."""
        return {
            "EnvironmentGetOrCreate": self._environment,
            "AppGetByDeploymentName": self._app_by_name,
            "AppCreate": self._app_create,
            "AppGetLayout": self._app_layout,
            "AppHeartbeat": self._nothing,
            "AppClientDisconnect": self._nothing,
            "AppPublish": self._app_publish,
            "MountGetOrCreate": self._mount,
            "MountBatchedCheckExistence": self._mount_missing,
            "MountPutFile": self._mount_file,
            "ImageGetOrCreate": self._image,
            "SecretGetOrCreate": self._secret,
            "VolumeGetOrCreate": self._volume,
            "VolumeCommit": self._volume_commit,
            "VolumeReload": self._nothing,
            "FunctionPrecreate": self._precreate,
            "FunctionCreate": self._create,
            "ClassCreate": self._class,
        }

    def app_named(self, name: str) -> App:
        """Raises NOT_FOUND."""
        for app in self.apps.values():
            if app.name == name and app.publications:
                return app
        raise GRPCError(Status.NOT_FOUND, f"App '{name}' not found")

    def layout(self, app_id: str) -> api_pb2.AppLayout:
        """What a container gets to know of its app."""
        app = self.apps[app_id]
        own = [one for one in self.functions.values() if one.app_id == app_id]
        objects = [api_pb2.Object(object_id=one.id, function_handle_metadata=one.handle) for one in own]
        needed = {needs.object_id for one in own for needs in one.definition.object_dependencies}
        objects += [self._needed(one) for one in sorted(needed)]
        objects += [
            api_pb2.Object(object_id=one, class_handle_metadata=api_pb2.ClassHandleMetadata())
            for one in app.class_ids.values()
        ]
        return api_pb2.AppLayout(function_ids=app.function_ids, class_ids=app.class_ids, objects=objects)

    def _needed(self, object_id: str) -> api_pb2.Object:
        if object_id.startswith("vo-"):
            metadata = api_pb2.VolumeMetadata(version=api_pb2.VOLUME_FS_VERSION_V1)
            return api_pb2.Object(object_id=object_id, volume_metadata=metadata)
        if object_id.startswith("mo-"):
            return api_pb2.Object(object_id=object_id, mount_handle_metadata=api_pb2.MountHandleMetadata())
        return api_pb2.Object(object_id=object_id)

    def environment_of(self, image_id: str) -> dict[str, str]:
        """The ENV of an image and of those it is made from."""
        found: dict[str, str] = {}
        image = self.images.get(image_id)
        if image is None:
            return found
        for base in image.base_images:
            found |= self.environment_of(base.image_id)
        for command in image.dockerfile_commands:
            if match := re.fullmatch(r"ENV (\w+)=(.*)", command):
                found[match[1]] = "".join(shlex.split(match[2]))
        return found

    async def _nothing(self, _request: Any, _headers: Headers) -> Message:
        return Empty()

    async def _environment(self, request: api_pb2.EnvironmentGetOrCreateRequest, _: Headers) -> Message:
        settings = api_pb2.EnvironmentSettings(image_builder_version=BUILDER)
        name = request.deployment_name or "main"
        metadata = api_pb2.EnvironmentMetadata(name=name, settings=settings)
        return api_pb2.EnvironmentGetOrCreateResponse(environment_id=new_id("en"), metadata=metadata)

    async def _app_by_name(self, request: api_pb2.AppGetByDeploymentNameRequest, _: Headers) -> Message:
        app = next((one for one in self.apps.values() if one.name == request.name), None)
        return api_pb2.AppGetByDeploymentNameResponse(app_id=app.id if app else "")

    async def _app_create(self, _request: api_pb2.AppCreateRequest, _: Headers) -> Message:
        app = App(new_id("ap"))
        self.apps[app.id] = app
        return api_pb2.AppCreateResponse(app_id=app.id, app_page_url="http://127.0.0.1/app")

    async def _app_layout(self, request: api_pb2.AppGetLayoutRequest, _: Headers) -> Message:
        return api_pb2.AppGetLayoutResponse(app_layout=self.layout(request.app_id))

    async def _app_publish(self, request: api_pb2.AppPublishRequest, _: Headers) -> Message:
        app = self.apps[request.app_id]
        app.name, app.publications = request.name, app.publications + 1
        app.function_ids, app.class_ids = dict(request.function_ids), dict(request.class_ids)
        self._ledger.changed()
        return api_pb2.AppPublishResponse(url="http://127.0.0.1/app", deployed_at=time.time())

    async def _mount(self, request: api_pb2.MountGetOrCreateRequest, _: Headers) -> Message:
        metadata = api_pb2.MountHandleMetadata(content_checksum_sha256_hex="0" * 64)
        return api_pb2.MountGetOrCreateResponse(mount_id=new_id("mo"), handle_metadata=metadata)

    async def _mount_missing(self, request: api_pb2.MountBatchedCheckExistenceRequest, _: Headers) -> Message:
        missing = [one for one in request.sha256_hex_hashes if one not in self.files]
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    async def _mount_file(self, request: api_pb2.MountPutFileRequest, _: Headers) -> Message:
        if request.WhichOneof("data_oneof"):
            self.files[request.sha256_hex] = request.data
        return api_pb2.MountPutFileResponse(exists=request.sha256_hex in self.files)

    async def _image(self, request: api_pb2.ImageGetOrCreateRequest, _: Headers) -> Message:
        image_id = new_id("im")
        self.images[image_id] = request.image
        done = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)
        metadata = api_pb2.ImageMetadata(image_builder_version=BUILDER)
        return api_pb2.ImageGetOrCreateResponse(image_id=image_id, result=done, metadata=metadata)

    async def _secret(self, _request: Any, _headers: Headers) -> Message:
        return api_pb2.SecretGetOrCreateResponse(secret_id=new_id("st"))

    async def _volume(self, request: api_pb2.VolumeGetOrCreateRequest, _: Headers) -> Message:
        volume_id = self.volumes.setdefault(request.deployment_name, new_id("vo"))
        metadata = api_pb2.VolumeMetadata(version=api_pb2.VOLUME_FS_VERSION_V1, name=request.deployment_name)
        return api_pb2.VolumeGetOrCreateResponse(volume_id=volume_id, version=metadata.version, metadata=metadata)

    async def _volume_commit(self, _request: Any, _headers: Headers) -> Message:
        return api_pb2.VolumeCommitResponse()

    async def _precreate(self, request: api_pb2.FunctionPrecreateRequest, _: Headers) -> Message:
        definition = api_pb2.Function(
            function_name=request.function_name,
            function_type=request.function_type,
            function_schema=request.function_schema,
            method_definitions=dict(request.method_definitions),
            supported_input_formats=request.supported_input_formats,
            supported_output_formats=request.supported_output_formats,
        )
        function_id = request.existing_function_id or new_id("fu")
        draft = Function(function_id, request.app_id, definition, api_pb2.FunctionData(), [])
        return api_pb2.FunctionPrecreateResponse(function_id=function_id, handle_metadata=draft.handle)

    async def _create(self, request: api_pb2.FunctionCreateRequest, _: Headers) -> Message:
        data = request.function_data
        if not data.ranked_functions:
            ranked = api_pb2.FunctionData.RankedFunction(rank=0, function=request.function)
            data = api_pb2.FunctionData(
                module_name=request.function.module_name,
                function_name=request.function.function_name,
                function_type=request.function.function_type,
                is_class=request.function.is_class,
                ranked_functions=[ranked],
            )
        first = data.ranked_functions[0].function
        gpus = [one.function.resources.gpu_config.gpu_type for one in data.ranked_functions]
        function_id = request.existing_function_id or new_id("fu")
        made = Function(function_id, request.app_id, first, data, [gpu for gpu in gpus if gpu])
        self.functions[function_id] = made
        return api_pb2.FunctionCreateResponse(
            function_id=function_id, function=first, function_data=data, handle_metadata=made.handle
        )

    async def _class(self, request: api_pb2.ClassCreateRequest, _: Headers) -> Message:
        class_id = request.existing_class_id or new_id("cs")
        return api_pb2.ClassCreateResponse(class_id=class_id, handle_metadata=api_pb2.ClassHandleMetadata())
