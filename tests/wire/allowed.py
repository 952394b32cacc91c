"""Differences between our `.proto` files and a client's that are right, each with its reason.

The key is what `make wire-check` prints in front of the difference. An entry that nothing needs fails the check.
"""

RENAMED = "the old version's name for the same number and type"

ALLOWED = {
    "modal.client.Function.max_concurrent_inputs": RENAMED + "; it is one concurrency number for all versions",
    "modal.client.FunctionOptions.target_concurrent_inputs": RENAMED + "; alone it means the maximum as well",
    "modal.client.AppCreateResponse.app_page_url": RENAMED + ", and it shows it as the page's address too",
    "modal.client.AppCreateResponse.app_logs_url": "0.63 has that name for number 2, and skips this field",
    "modal.client.AppListResponse.apps": "0.63 calls the item `AppStats`; what we declare of it has the same numbers",
    "modal.client.ModalClient/AppRollback": "old clients expect an empty message, and skip the fields of this one",
    "modal.client.VolumeFsVersion.VOLUME_FS_VERSION_UNSPECIFIED": RENAMED,
    "modal.client.VolumeFsVersion.VOLUME_FS_VERSION_V1": RENAMED,
    "modal.client.VolumeFsVersion.VOLUME_FS_VERSION_V2": RENAMED,
}
