"""A client of Kubernetes' Container Runtime Interface: python cri.py SOCKET.

Each line of its input is a call, {"method": "RunPodSandbox", "request": {...}}; each line of its output the answer,
{"response": {...}} or {"error": "CODE: message"}. Messages are as in cri.proto, and as JSON as protobuf has it: 64-bit
numbers are strings. One process for all calls, since it takes long to start in an emulated machine.
"""

import json
import sys

import grpc
from google.protobuf import json_format

import cri_pb2


def call(channel, method, request):
    service = "ImageService" if method.startswith("Image") else "RuntimeService"
    response = getattr(cri_pb2, method + "Response")
    function = channel.unary_unary(
        f"/runtime.v1.{service}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=response.FromString,
    )
    message = json_format.ParseDict(request, getattr(cri_pb2, method + "Request")())
    return json_format.MessageToDict(
        function(message, timeout=300, wait_for_ready=True),
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )


def main():
    # By default the path would be the authority, which is none.
    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel("unix:" + sys.argv[1], options=options) as channel:
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                answer = {"response": call(channel, asked["method"], asked["request"])}
            except grpc.RpcError as error:
                answer = {"error": f"{error.code().name}: {error.details()}"}
            print(json.dumps(answer), flush=True)


main()
