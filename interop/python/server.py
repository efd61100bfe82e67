"""The interop service on gRPC's C core, on a free port of loopback, which is printed first.

usage: server.py plaintext | (tls | mtls) FOLDER-OF-CERTIFICATES

Needs `test_service_pb2` and `test_service_pb2_grpc`, made from `test_service.proto`, on its path.
"""

import pathlib
import sys
import time
from concurrent import futures

import grpc
import test_service_pb2 as messages
import test_service_pb2_grpc as services

INITIAL = "x-grpc-test-echo-initial"
TRAILING = "x-grpc-test-echo-trailing-bin"
# More calls at a time than any case makes.
WORKERS = 64


class TestService(services.TestServiceServicer):
    def EmptyCall(self, request, context):
        echo_metadata(context)
        return messages.Empty()

    def UnaryCall(self, request, context):
        echo_metadata(context)
        end_as_told(request, context)
        if request.response_compressed.value:
            context.set_compression(grpc.Compression.Gzip)
        return messages.SimpleResponse(payload=zeros(request.response_size))

    def StreamingOutputCall(self, request, context):
        context.set_compression(grpc.Compression.Gzip)
        echo_metadata(context)
        yield from responses_to(request, context)

    def StreamingInputCall(self, requests, context):
        echo_metadata(context)
        size = sum(len(request.payload.body) for request in requests)
        return messages.StreamingInputCallResponse(aggregated_payload_size=size)

    def FullDuplexCall(self, requests, context):
        context.set_compression(grpc.Compression.Gzip)
        echo_metadata(context)
        for request in requests:
            yield from responses_to(request, context)


def responses_to(request, context):
    end_as_told(request, context)
    for wanted in request.response_parameters:
        time.sleep(wanted.interval_us / 1e6)
        if not wanted.compressed.value:
            context.disable_next_message_compression()
        yield messages.StreamingOutputCallResponse(payload=zeros(wanted.size))


def echo_metadata(context):
    sent = dict(context.invocation_metadata())
    if INITIAL in sent:
        context.send_initial_metadata(((INITIAL, sent[INITIAL]),))
    if TRAILING in sent:
        context.set_trailing_metadata(((TRAILING, sent[TRAILING]),))


def end_as_told(request, context):
    status = request.response_status
    if status.code != 0:
        codes = {code.value[0]: code for code in grpc.StatusCode}
        context.abort(codes[status.code], status.message)


def zeros(size):
    return messages.Payload(body=bytes(size))


def listen(server, security, folder):
    if security == "plaintext":
        return server.add_insecure_port("127.0.0.1:0")
    key, chain, ca = (
        (pathlib.Path(folder) / name).read_bytes() for name in ("server.key", "server.pem", "ca.pem")
    )
    is_mutual = security == "mtls"
    credentials = grpc.ssl_server_credentials(
        [(key, chain)],
        root_certificates=ca if is_mutual else None,
        require_client_auth=is_mutual,
    )
    return server.add_secure_port("127.0.0.1:0", credentials)


def main():
    security, folder = (sys.argv[1:] + [None])[:2]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=WORKERS))
    services.add_TestServiceServicer_to_server(TestService(), server)
    port = listen(server, security, folder)
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
