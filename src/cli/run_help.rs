//! What `mote run --help` says of options that have keys, and under which headings options stand.
//! docs/devices.md says it at length.

pub const DRIVES: &str = "Drives and folders";
pub const NETWORKS: &str = "Networks and vsock";
pub const IMAGE: &str = "Container images (docs/images.md)";
pub const OTHERS: &str = "Other devices";
pub const TOLD: &str = "What mote tells";
pub const PLACEMENT: &str = "Place on the host (docs/placement.md)";

pub const API: &str = "Control by other programs (docs/api.md)";
pub const ISOLATION: &str = "Isolation (docs/sandbox.md)";

pub const MEMORY: &str = "\
Guest memory, for example 512M [default: 128M]. Keys, separated by commas:
  SIZE or size=SIZE             how much
  hugepages=2M|1G               pages of the host's pool, set aside before the VM starts
  thp=off                       no transparent huge pages
  prefault=on                   all of it is there before the guest starts";

pub const IDLE: &str = "\
How a vCPU waits when it has nothing to do [default: halt]. One of:
  halt                          it halts, and the host's CPU is free for others
  haltpoll                      its kernel polls a while before it halts (cpuidle's haltpoll;
                                x86_64 only)
  poll                          its kernel polls and never halts (idle=poll, nohlt)
  pass-through                  it halts the host's CPU itself, without an exit, and is told that
                                the CPU is its own; each vCPU must have one to itself, or
                                (x86_64 only):
  pass-through,force            in any case";

pub const DISK: &str = "\
A further drive (repeatable). Keys, separated by commas (two commas are one in a value):
  PATH or path=PATH             a raw image or a block device
  ro                            the guest may not write
  id=ID                         its serial number in the guest
  cache=writeback|none|unsafe   the host's page cache, and what a flush does
  engine=threads|io_uring       how the file is read and written
  queues=N                      1 to 64
  iops=N, bw=SIZE               limits in a second; with iops-burst=N, bw-burst=SIZE
  dax                           the guest maps it (/dev/pmem0, ...), its pages are the host's page
                                cache; alone, or with ro, or with cow:
  cow                           writes are the guest's own, and thrown away at the end
Served by another process instead:
  vhost-user=SOCKET             its socket; with ro, queues=N and
  server                        mote listens there, and waits for it
  on-disconnect=wait|exit       what happens when it goes away";

pub const FS: &str = "\
A folder that another process shares, by virtiofs (repeatable). Keys:
  tag=TAG                       the guest mounts it by that: mount -t virtiofs TAG /mnt
  socket=SOCKET                 of virtiofsd
  queues=N                      for requests, 1 to 63
  server                        mote listens there, and waits for it
  on-disconnect=wait|exit       what happens when it goes away";

pub const NET: &str = "\
A network device (repeatable). One of:
  user                          through a passt that mote starts, with no privileges
                                (passt=PATH names the program)
  tap=NAME                      a tap of the host, made if there is none
  fd=N                          a tap that is open already
  vhost-user=SOCKET             another process moves the packets
With each:
  mac=MAC                       the guest's address; a random one by default
  mtu=N                         the largest packet
With a tap:
  queues=N                      queue pairs, 1 to 8
  vhost                         the host's kernel moves the packets
  link=off                      the cable isn't plugged in at first
  rx-bw=SIZE, rx-pps=N          limits to the guest in a second; with rx-bw-burst=SIZE,
  tx-bw=SIZE, tx-pps=N          rx-pps-burst=N; from the guest likewise
With another process:
  on-disconnect=wait|exit       what happens when it goes away
  server                        with vhost-user: mote listens there, and waits for it";

pub const VSOCK: &str = "\
Streams between programs in the guest and on the host. Keys:
  cid=N                         the guest's address, from 3 on
  socket=PATH                   through Unix sockets: PATH into the guest, PATH_PORT out of it
  vhost                         or through the host's kernel, as AF_VSOCK there";

pub const BALLOON: &str = "\
A memory balloon; free memory goes back to the host. Keys, all of which may be left out:
  SIZE or size=SIZE             what the guest gives up from the start
  deflate-on-oom                it may take it back before it runs out of memory
  stats=SECONDS                 how often it tells how it uses its memory
  free-page-reporting=off       it doesn't tell what is free";

pub const CONSOLE: &str = "\
The guest's console [default: stdio]. One of:
  stdio, pty, file=PATH         the serial port: this terminal, a new one, or a file
  hvc, hvc,pty, hvc,file=PATH   a virtio console and no serial port
  none                          neither";

pub const PIN: &str = "\
The host's CPUs for vCPU threads. One of:
  0=2,1=3-4                     vCPU 0 on CPU 2, vCPU 1 on CPUs 3 and 4, others anywhere
  2-5                           a CPU for each vCPU, in this order";

pub const SCHED: &str = "\
How vCPU threads are scheduled: fifo:PRIORITY, rr:PRIORITY (1 to 99) or other. One of:
  fifo:10                       all of them
  0=fifo:10,1=other             by the vCPU's number; those not named as `other`
Added to either:
  force                         only warn of what could starve the VM or the host";

pub const NUMA: &str = "\
A NUMA node of the guest (repeatable); on x86_64, several need ACPI, which they turn on. Keys:
  node=N                        its number; they are counted from 0
  cpus=LIST                     its vCPUs, such as 0-1 (with two commas: 0,,2)
  memory=SIZE                   its memory; together they are --memory
  host-node=N                   the host's node that its memory and its vCPUs are on
  distances=10:20               how far it is to each node; 10 to itself, 20 by default";

pub const METRICS: &str = "\
Show metrics in the Prometheus text format. One of these, or both:
  file=PATH                     written every 10 seconds (interval=SECONDS) and at the end
  unix=PATH                     a socket: each who connects is told";

pub const JAIL: &str = "\
Run in a jail, for production (docs/jail.md): namespaces, an empty file system, another user,
no rights. What the options name is opened before. Keys:
  id=NAME                       the VM's name: of its folder and its cgroup
  uid=N, gid=N                  who it becomes; as root, uid= must be given
  root=DIR                      where its folder is [default: /run/mote, or
                                $XDG_RUNTIME_DIR/mote]; sockets that mote makes are in DIR/NAME/run
  netns=NAME                    the network namespace to be in, or its path [default: an empty one]
  cgroup=PATH                   the cgroup (version 2) in which it gets one of its own, with
  cpu=N, memory=SIZE, pids=N, cpus=LIST
                                CPU time in CPUs (0.5), memory of guest and mote, threads, CPUs
  nofile=N, nproc=N, memlock=SIZE, fsize=SIZE
                                resource limits: open files, threads of its user, locked memory,
                                the size of a file";
