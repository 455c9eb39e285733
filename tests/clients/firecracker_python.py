"""firecracker_python.py COMMAND FOLDER KERNEL DRIVE: creates a VM, boots, pauses, resumes and stops it by the package
firecracker-python. COMMAND is what it takes for Firecracker.

Its class MicroVM wants Docker and asks the Internet for this host's address, before anything of a VM; the classes that
MicroVM is made of need neither.
"""

import os
import sys

from firecracker.exceptions import APIError
from firecracker.process import ProcessManager
from firecracker.vmm import VMMManager

command, folder, kernel, drive = sys.argv[1:]
name = "frompython"

process, vmm = ProcessManager(), VMMManager()
for part in (process, vmm, vmm._process):
    part._config.data_path = folder
    part._config.binary_path = command

socket = f"{folder}/{name}/firecracker.socket"
vmm.socket_file(name)
process.start(name, ["--api-sock", socket, "--id", name, "--log-path", f"{folder}/{name}/log"])
api = vmm.get_api(name)
assert api.describe.get().json()["state"] == "Not started"
print("version", api.version.get().json()["firecracker_version"])
api.boot.put(kernel_image_path=kernel, boot_args="console=ttyS0 reboot=k pci=off panic=1")
api.drive.put(drive_id="rootfs", path_on_host=drive, is_root_device=True, is_read_only=False)
api.machine_config.put(vcpu_count=1, mem_size_mib=64)
api.vsock.put(guest_cid=3, uds_path=f"{folder}/{name}/v.sock")
try:
    api.mmds_config.put(version="V2", network_interfaces=["eth0"])
    raise SystemExit("mote has a metadata service")
except APIError as error:
    assert "MMDS" in str(error), error
api.actions.put(action_type="InstanceStart")
api.close()
# By the number that it noted, and by the name of the process.
process.get_pid(name)
assert process.is_running(name)
assert vmm.get_vmm_state(name) == "Running"
vmm.update_vmm_state(name, "Paused")
assert vmm.get_vmm_state(name) == "Paused"
vmm.update_vmm_state(name, "Resumed")
assert vmm.get_vmm_state(name) == "Running"
config = vmm.get_vmm_config(name)
assert config["machine-config"]["mem_size_mib"] == 64, config
assert config["drives"][0]["drive_id"] == "rootfs", config
assert process.stop(name)
assert not os.path.exists(socket)
print("done")
