"""What the volumes' programs share, on the user's machine only: what the clients say in different words."""

import io

import modal
from checks import raises

NUMBERS = tuple(int(part) for part in modal.__version__.split(".")[:2])
NOT_IN_THIS_CLIENT = "skip: this client has no such method"
KINDS = {1: "file", 2: "dir", 3: "link", 4: "fifo", 5: "socket"}


def delete(name):
    """Whether it was there or not."""
    try:
        if hasattr(modal.Volume, "objects"):
            modal.Volume.objects.delete(name)
        else:
            modal.Volume.delete(name)
    except Exception as error:
        assert "not found" in str(error), error


def anew(name, version=None):
    """A named volume with nothing in it. In containers, which know it by its id, the name does not matter."""
    name = f"{name}-{modal.__version__}"
    delete(name)
    return modal.Volume.from_name(name, create_if_missing=True, version=version)


def the_versions(name):
    """A volume of each kind that there is: to their users they are the same."""
    return [anew(f"{name}-v{version}", version=version) for version in (1, 2)]


def put(volume, files, force=False):
    with volume.batch_upload(force=force) as batch:
        for path, data in files.items():
            batch.put_file(io.BytesIO(data), path)


def content(volume, path):
    return b"".join(volume.read_file(path))


def listed(volume, path="/", recursive=False):
    """Path to size, or to what else it is."""
    entries = volume.listdir(path, recursive=recursive)
    assert len({e.path for e in entries}) == len(entries), "an entry came twice"
    return {e.path: e.size if KINDS[int(e.type)] == "file" else KINDS[int(e.type)] for e in entries}


def tree(volume):
    return listed(volume, recursive=True)


def refused(call, *arguments, **keywords):
    """The error, which must be one that the client does not take for a passing trouble of the server."""
    error = raises(Exception, call, *arguments, **keywords)
    # Newer clients' own errors are of gRPC's kind too, for now, and warn whoever looks.
    status = None if isinstance(error, modal.exception.Error) else getattr(error, "status", None)
    if status is not None:
        allowed = {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "OUT_OF_RANGE"}
        assert status.name in allowed, (call, arguments, error)
    else:
        names = ("InvalidError", "NotFoundError", "AlreadyExistsError", "ConflictError")
        kinds = tuple(getattr(modal.exception, name) for name in names if hasattr(modal.exception, name))
        # `ValueError`: the client itself will not send it.
        assert isinstance(error, (OSError, ValueError, RuntimeError, *kinds)), (call, arguments, type(error), error)
    return error


def described(kind, call, *arguments, old=None, new=None, **keywords):
    """An error of this kind; where `old` is given, older clients hand on the server's status of that name instead, and
    where `new` is given, newer ones an error of their own."""
    error = refused(call, *arguments, **keywords)
    if old is not None and not isinstance(error, (OSError, modal.exception.Error)):
        assert error.status.name.lower() == old, (call, arguments, error)
    else:
        assert isinstance(error, (kind,) if new is None else (kind, new)), (call, arguments, type(error), error)
    return error
