"""A real SLURM cluster of three nodes on this machine, each node in a network and host name of its own.

Needs root on Linux with Debian's slurmctld, slurmd, slurm-client and munge; `Cluster.missing()` says what is lacking.
Everything is private to one folder but the bridge and the namespaces, which `down` removes.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scontrol", "munged", "ip", "nsenter", "unshare")
PACKAGES = "slurmctld slurmd slurm-client munge iproute2"
NODES = ("n1", "n2", "n3")
BRIDGE, NETWORK = "adaptrunbr0", "10.78.0"
CONTROLLER = f"{NETWORK}.254"
PORT = 16917
PATIENCE = 120.0

CONF = """\
ClusterName=test
SlurmctldHost={host}({controller})
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType={tracking}
TaskPlugin=task/none
TaskProlog={folder}/task-prolog
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
KillWait=10
UnkillableStepTimeout=30
InactiveLimit=0
MinJobAge=3600
MailProg=/bin/true
PropagateResourceLimits=NONE
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=60 DefaultTime=10 PriorityTier=10 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=ALL MaxTime=60 DefaultTime=10 PriorityTier=100 PreemptMode=OFF
"""
NODE = "NodeName={name} NodeHostName={name} NodeAddr={address} Port={port} CPUs=2 RealMemory=4000 State=UNKNOWN"


PROLOG = """\
#!/bin/sh
[ -e {folder}/sick-$SLURMD_NODENAME ] && echo export TMPDIR={folder}/full
true
"""
"""Tasks on a sick node get a temporary folder on a file system that is full."""


def missing() -> str | None:
    """Why no cluster can be started here, None where it can."""
    if os.geteuid() != 0:
        return "starting a SLURM cluster needs root"
    lacking = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"{', '.join(lacking)} not found: apt-get install --no-install-recommends {PACKAGES}" if lacking else None


@dataclass
class Cluster:
    """A running cluster; `up` starts it and `down` leaves nothing behind."""

    folder: Path
    _addresses: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """For commands that speak to it."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def up(self) -> None:
        """Start munge, the controller and the nodes; return when they are idle."""
        self.down()
        for name in ("run", "munge", "state", "log"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            (self.folder / name).chmod(0o700 if name == "munge" else 0o755)
        self._addresses = {name: f"{NETWORK}.{number}" for number, name in enumerate(NODES, 1)}
        self._configure()
        (self.folder / "full").mkdir(exist_ok=True)
        self._run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", self.folder / "full")
        self._make_networks()
        self._start_munge()
        self._run("slurmctld", "-f", self._conf)
        for node in NODES:
            self.start_node(node)
        self.wait_until_idle()

    def down(self) -> None:
        """End everything that was started, in any state."""
        if self._conf.exists():
            self._run("scancel", "--state=RUNNING", "--state=PENDING", "--user=root", quietly=True)
        for file in sorted((self.folder / "run").glob("*.pid"), reverse=True):  # slurmds, controller, munge
            _end(int(file.read_text() or 0))
        for process in psutil.process_iter(["cmdline", "name"]):
            if process.info["name"] == "slurmstepd":
                process.kill()
        for node in NODES:
            self._run("ip", "netns", "del", node, quietly=True)
            shutil.rmtree(f"/etc/netns/{node}", ignore_errors=True)
        self._run("umount", self.folder / "full", quietly=True)
        for link in (*(f"adaptrun-{node}" for node in NODES), BRIDGE):
            self._run("ip", "link", "del", link, quietly=True)

    def start_node(self, node: str) -> None:
        """Start a node's daemon in the node's own network, with its own host name and table of hosts."""
        script = (
            "mount --bind /etc/netns/$0/hosts /etc/hosts && mount --bind /etc/netns/$0/nsswitch.conf "
            '/etc/nsswitch.conf && hostname "$0" && exec slurmd -f "$1" -N "$0"'
        )
        self._run(
            "nsenter", f"--net=/run/netns/{node}", "unshare", "--uts", "--mount", "sh", "-c", script, node, self._conf
        )

    def kill_node_daemon(self, node: str) -> None:
        """Kill a node's slurmd; what runs there goes on."""
        os.kill(int((self.folder / "run" / f"slurmd-{node}.pid").read_text()), signal.SIGKILL)

    def cut(self, node: str) -> None:
        """Take a node off the network."""
        self._run("ip", "link", "set", f"adaptrun-{node}", "down")

    def mend(self, node: str) -> None:
        """Put it back."""
        self._run("ip", "link", "set", f"adaptrun-{node}", "up")

    def sicken(self, node: str) -> None:
        """Let the temporary folder of a node's tasks be on a file system without room."""
        (self.folder / f"sick-{node}").touch()

    def heal(self, node: str) -> None:
        """Let it have room again."""
        (self.folder / f"sick-{node}").unlink()

    def wait_until_idle(self) -> None:
        """Return when all nodes wait for work."""

        def idle() -> bool:
            states = self._run("sinfo", "-h", "-N", "-p", "debug", "-o", "%t", quietly=True).split()
            return states == ["idle"] * len(NODES)

        begun = time.monotonic()
        while not idle():
            if time.monotonic() - begun > 10:  # a node that died before stays down until it is called back
                for node in NODES:
                    self._run("scontrol", "update", f"nodename={node}", "state=resume", quietly=True)
            assert time.monotonic() - begun < PATIENCE, self._run("sinfo", "-N", quietly=True)
            time.sleep(0.2)

    def state(self, job: str) -> dict[str, str]:
        """What the scheduler says of a job, by the names of `scontrol show job`."""
        line = self.shown(job)
        return {name: value for name, _, value in (word.partition("=") for word in line.split())}

    def shown(self, job: str) -> str:
        """The scheduler's own words on a job, in one line."""
        return self._run("scontrol", "--oneliner", "show", "job", job).splitlines()[0]

    def wait_for(self, job: str, state: str | Callable[[dict[str, str]], bool], patience: float = PATIENCE) -> None:
        """Return when a job is in a state."""
        begun = time.monotonic()
        while not (state(self.state(job)) if callable(state) else self.state(job)["JobState"] == state):
            assert time.monotonic() - begun < patience, f"waited in vain for {state}: {self.state(job)}"
            time.sleep(0.2)

    @property
    def _conf(self) -> Path:
        return self.folder / "slurm.conf"

    def _configure(self) -> None:
        nodes = "\n".join(NODE.format(name=n, address=a, port=PORT + 101) for n, a in self._addresses.items())
        has_freezer = Path("/sys/fs/cgroup/freezer").is_dir()
        self._conf.write_text(
            CONF.format(
                host=socket.gethostname().split(".")[0],
                controller=CONTROLLER,
                port=PORT,
                folder=self.folder,
                nodes=nodes,
                tracking="proctrack/cgroup" if has_freezer else "proctrack/linuxproc",
            )
        )
        (self.folder / "task-prolog").write_text(PROLOG.format(folder=self.folder))
        (self.folder / "task-prolog").chmod(0o755)
        if has_freezer:
            (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\n")

    def _make_networks(self) -> None:
        self._run("ip", "link", "add", BRIDGE, "type", "bridge")
        self._run("ip", "addr", "add", f"{CONTROLLER}/24", "dev", BRIDGE)
        self._run("ip", "link", "set", BRIDGE, "up")
        hosts = [f"{address} {node}" for node, address in self._addresses.items()]
        names = Path("/etc/nsswitch.conf").read_text()
        local = "\n".join("hosts: files" if line.startswith("hosts:") else line for line in names.splitlines())
        for node, address in self._addresses.items():
            link = f"adaptrun-{node}"
            self._run("ip", "netns", "add", node)
            self._run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", node)
            self._run("ip", "link", "set", link, "master", BRIDGE, "up")
            self._run("ip", "-n", node, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                self._run("ip", "-n", node, "link", "set", device, "up")
            self._run("ip", "-n", node, "route", "add", "default", "via", CONTROLLER)
            etc = Path("/etc/netns") / node
            etc.mkdir(parents=True, exist_ok=True)
            own = f"127.0.1.1 {node}"  # as Debian writes it: a node's own name is the loopback
            others = [line for line in hosts if not line.endswith(node)]
            (etc / "hosts").write_text(
                "\n".join(["127.0.0.1 localhost", f"{CONTROLLER} {socket.gethostname()}", own, *others]) + "\n"
            )
            (etc / "nsswitch.conf").write_text(local + "\n")

    def _start_munge(self) -> None:
        run, own = self.folder / "run", self.folder / "munge"
        (own / "key").write_bytes(os.urandom(1024))
        (own / "key").chmod(0o400)
        self._run(
            "munged",
            f"--socket={run}/munge.sock",
            f"--key-file={own}/key",
            f"--log-file={own}/munged.log",
            f"--pid-file={run}/munged.pid",
            f"--seed-file={own}/seed",
        )

    def _run(self, *command: object, quietly: bool = False) -> str:
        words = [str(word) for word in command]
        done = subprocess.run(words, env=os.environ | self.environment, capture_output=True, text=True, timeout=60)
        assert quietly or done.returncode == 0, f"{words}: {done.stderr}{done.stdout}"
        return done.stdout


def _end(pid: int) -> None:
    if pid == 0 or not psutil.pid_exists(pid):
        return
    process = psutil.Process(pid)
    process.terminate()
    try:
        process.wait(10)
    except psutil.TimeoutExpired:
        process.kill()
