"""Network file systems: the client's class in every version, and its commands."""

from program_checks import assert_check, for_each_check


@for_each_check("network_file_systems.py")
def network_file_systems(clients, version, check):
    assert_check(clients, "network_file_systems.py", version, check, 200)


def a_file_system_is_made_filled_listed_emptied_and_deleted_by_commands(newest, server, tmp_path):
    newest.modal("nfs", "delete", "--yes", "by-hand")
    made = newest.modal("nfs", "create", "by-hand")
    assert made.code == 0, made
    again = newest.modal("nfs", "create", "by-hand")
    assert again.code != 0 and "already exists" in again.out + again.err, again
    assert any("by-hand" in row.values() for row in newest.rows("nfs", "list", "--json"))
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "inner/leaf").write_text("leaf")
    for arguments in (["put", "by-hand", source, "/put"], ["put", "by-hand", source / "inner/leaf", "/"]):
        put = newest.modal("nfs", *arguments)
        assert put.code == 0, put
    listed = newest.modal("nfs", "ls", "by-hand")
    assert listed.code == 0 and listed.out.split() == ["leaf", "put"], listed
    got = newest.modal("nfs", "get", "by-hand", "**", tmp_path)
    assert got.code == 0 and (tmp_path / "put/inner/leaf").read_text() == "leaf", got
    assert "leaf" in newest.modal("nfs", "get", "by-hand", "put/inner/leaf", "-").out
    assert newest.modal("nfs", "rm", "by-hand", "put").code != 0
    assert newest.modal("nfs", "rm", "-r", "by-hand", "put").code == 0
    assert newest.modal("nfs", "ls", "by-hand").out.split() == ["leaf"]
    kept = [folder for folder in (server.data / "nfs").glob("sv-*") if (folder / "leaf").exists()]
    assert newest.modal("nfs", "delete", "--yes", "by-hand").code == 0
    missing = newest.modal("nfs", "ls", "by-hand")
    assert missing.code != 0 and "not found" in missing.out + missing.err, missing
    assert kept and not kept[0].exists(), "its files are gone with it"


def a_volume_is_no_network_file_system(newest):
    newest.modal("volume", "create", "a-volume")
    said = newest.modal("nfs", "ls", "a-volume")
    newest.modal("volume", "delete", "--yes", "a-volume")
    assert said.code != 0 and "already exists as a Volume" in said.out + said.err, said


def a_file_system_that_is_deleted_in_use_takes_nothing_more(newest):
    running = newest.start("run", "deleted_in_use.py::share")
    running.wait_for_line("holding")
    gone = newest.modal("nfs", "delete", "--yes", "deleted-in-use")
    assert gone.code == 0, gone
    ended = running.end(60)
    assert ended.code == 0 and "ended with FileNotFoundError" in ended.out, ended
    # The name is free, and another file system.
    made = newest.modal("nfs", "create", "deleted-in-use")
    assert made.code == 0 and newest.modal("nfs", "ls", "deleted-in-use").out.split() == [], made
    newest.modal("nfs", "delete", "--yes", "deleted-in-use")
