"""Volumes: what programs keep, from the clients and in containers."""


def a_volume_is_created_listed_renamed_and_deleted(newest):
    newest.modal("volume", "delete", "--yes", "made-here")
    newest.modal("volume", "delete", "--yes", "called-otherwise")
    made = newest.modal("volume", "create", "made-here", "--version", "2")
    assert made.code == 0, made
    again = newest.modal("volume", "create", "made-here")
    assert again.code != 0 and "already exists" in again.out + again.err, again
    script = "import modal; v = modal.Volume.from_name('made-here').hydrate(); print(modal.Volume.from_id(v.object_id).info().name)"
    looked_up = newest.python("-c", script)
    assert looked_up.code == 0 and "made-here" in looked_up.out, looked_up
    renamed = newest.modal("volume", "rename", "--yes", "made-here", "called-otherwise")
    assert renamed.code == 0, renamed
    names = [row.get("Name", row.get("name")) for row in newest.rows("volume", "list", "--json")]
    assert "called-otherwise" in names and "made-here" not in names, names
    gone = newest.modal("volume", "delete", "--yes", "called-otherwise")
    assert gone.code == 0, gone
    missing = newest.modal("volume", "ls", "called-otherwise")
    assert missing.code != 0 and "'called-otherwise' not found" in missing.out + missing.err, missing
