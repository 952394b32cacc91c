"""Writes a wire as plain JSON: its messages with their fields, its enums, its methods.

Run by a client's own Python, because only that has the `protobuf` library which the client's generated code needs:

    .dorian/clients/1.6.4/bin/python describe.py client          the descriptors inside the installed client
    .dorian/clients/1.6.4/bin/python describe.py set FILE        a descriptor set that `protoc` wrote

Both go through the same code, so that a difference between two outputs is a difference between two wires.
"""

import json
import sys

from google.protobuf import descriptor_pb2

Field = descriptor_pb2.FieldDescriptorProto
PACKAGE_PREFIX = "modal."


def client_files():
    """The files that the installed client was generated from; the oldest clients lack the second one."""
    from modal_proto import api_pb2

    modules = [api_pb2]
    try:
        from modal_proto import task_command_router_pb2

        modules.append(task_command_router_pb2)
    except ImportError:
        pass
    for module in modules:
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        yield file


def set_files(path):
    with open(path, "rb") as source:
        return descriptor_pb2.FileDescriptorSet.FromString(source.read()).file


def type_of(field, entries):
    """`string`, `modal.client.App`, `map<string, int32>`: how the field would be spelled in a `.proto` file."""
    if field.type_name:
        name = field.type_name.lstrip(".")
        if name in entries:
            key, value = entries[name].field
            return f"map<{type_of(key, {})}, {type_of(value, {})}>"
        return name
    return Field.Type.Name(field.type)[len("TYPE_") :].lower()


def describe_message(message, prefix, wire):
    full_name = f"{prefix}.{message.name}"
    entries = {f"{full_name}.{n.name}": n for n in message.nested_type if n.options.map_entry}
    fields = wire["messages"][full_name] = {}
    for field in message.field:
        kind = type_of(field, entries)
        optional = field.proto3_optional
        fields[field.name] = {
            "number": field.number,
            "type": kind,
            "repeated": field.label == Field.LABEL_REPEATED and not kind.startswith("map<"),
            "optional": optional,
            # An optional field sits in a oneof of its own that the compiler made up: not part of what was written.
            "oneof": message.oneof_decl[field.oneof_index].name
            if field.HasField("oneof_index") and not optional
            else None,
        }
    for nested in message.nested_type:
        if not nested.options.map_entry:
            describe_message(nested, full_name, wire)
    for enum in message.enum_type:
        describe_enum(enum, full_name, wire)


def describe_enum(enum, prefix, wire):
    wire["enums"][f"{prefix}.{enum.name}"] = {value.name: value.number for value in enum.value}


def describe(files):
    wire = {"messages": {}, "enums": {}, "methods": {}}
    for file in files:
        if not file.package.startswith(PACKAGE_PREFIX):
            continue
        for message in file.message_type:
            describe_message(message, file.package, wire)
        for enum in file.enum_type:
            describe_enum(enum, file.package, wire)
        for service in file.service:
            for method in service.method:
                wire["methods"][f"{file.package}.{service.name}/{method.name}"] = {
                    "request": method.input_type.lstrip("."),
                    "request_streams": method.client_streaming,
                    "reply": method.output_type.lstrip("."),
                    "reply_streams": method.server_streaming,
                }
    return wire


if __name__ == "__main__":
    source = client_files() if sys.argv[1] == "client" else set_files(sys.argv[2])
    json.dump(describe(source), sys.stdout)
