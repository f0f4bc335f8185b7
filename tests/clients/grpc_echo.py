"""A gRPC server, or a client that calls it: grpc_echo.py URL serve|call

The server prints its port; the client one JSON object."""

import json
import sys
from concurrent import futures

import grpc

URL, MODE = sys.argv[1], sys.argv[2]


def unary(request, context):
    context.set_trailing_metadata((("x-kind", "unary"),))
    return b"echo " + request


def down(request, context):
    for number in range(3):
        yield b"%s %d" % (request, number)
    context.set_trailing_metadata((("x-kind", "down"),))


def up(requests, context):
    return b", ".join(requests)


def both(requests, context):
    for request in requests:
        yield b"echo " + request


def fail(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now")


HANDLERS = {
    "/echo.Echo/Unary": grpc.unary_unary_rpc_method_handler(unary),
    "/echo.Echo/Down": grpc.unary_stream_rpc_method_handler(down),
    "/echo.Echo/Up": grpc.stream_unary_rpc_method_handler(up),
    "/echo.Echo/Both": grpc.stream_stream_rpc_method_handler(both),
    "/echo.Echo/Fail": grpc.unary_unary_rpc_method_handler(fail),
}


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return HANDLERS.get(details.method)


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[Echo()])
    print("port", server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def trailers(call):
    return dict(call.trailing_metadata()).get("x-kind")


def call():
    with grpc.insecure_channel(URL.removeprefix("http://")) as channel:
        told = {}
        answer, made = channel.unary_unary("/echo.Echo/Unary").with_call(b"a" * 100_000, timeout=20)
        told["unary"] = [len(answer), trailers(made), made.code().name]
        made = channel.unary_stream("/echo.Echo/Down")(b"n", timeout=20)
        told["down"] = [[piece.decode() for piece in made], trailers(made), made.code().name]
        made = channel.stream_unary("/echo.Echo/Up")
        told["up"] = made(iter([b"a", b"b", b"c"]), timeout=20).decode()

        heard = []

        def ask():
            # Each request waits for the answer to the one before.
            for number in range(3):
                yield b"%d" % number
                while len(heard) <= number:
                    pass

        for piece in channel.stream_stream("/echo.Echo/Both")(ask(), timeout=20):
            heard.append(piece.decode())
        told["both"] = heard
        try:
            channel.unary_unary("/echo.Echo/Fail")(b"x", timeout=20)
        except grpc.RpcError as error:
            told["fail"] = [error.code().name, error.details()]
    print(json.dumps(told), flush=True)


serve() if MODE == "serve" else call()
