"""What cpd.service must not allow: writes the plan that probe.c tries under the unit's properties.

    probe.py CALLS UNIT      CALLS: a line "NAME NUMBER" for each system call that the headers know; UNIT: the file
"""

import os
import stat
import subprocess
import sys

# Later than the headers of Debian 12; one number on every machine.
LATER = """cachestat 451 fchmodat2 452 map_shadow_stack 453 futex_wake 454 futex_wait 455 futex_requeue 456 statmount 457
listmount 458 lsm_get_self_attr 459 lsm_set_self_attr 460 lsm_list_modules 461 mseal 462""".split()
if os.uname().machine == "x86_64":
    # The kernel's own, which no filter sees: whoever calls them from elsewhere is ended.
    ALWAYS = {335: "uretprobe", 336: "uprobe"}
else:
    ALWAYS = {}
HIGHEST = 600
# Not to be allowed by any list, whoever wants to change it.
NEVER = """add_key bpf delete_module execveat init_module io_uring_enter io_uring_register io_uring_setup kcmp keyctl mount
name_to_handle_at open_by_handle_at perf_event_open personality pidfd_getfd pidfd_open process_madvise process_vm_readv
process_vm_writev ptrace reboot request_key setgid setns setuid swapon unshare userfaultfd vmsplice""".split()
INTERPRETERS = ("sh", "bash", "rbash", "dash", "ash", "ksh", "zsh", "busybox", "perl", "python", "ruby", "lua", "awk",
                "mawk", "gawk", "sed", "env", "tclsh", "expect", "node", "php", "openssl")
LIBRARIES = tuple(os.path.dirname(os.path.realpath(loader)) for loader in
                  ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1") if os.path.exists(loader))
# What cpd's sandbox lets run, and what of the manager and the log it lets be told.
PROGRAMS = ("/usr/sbin/cpd", "/usr/bin/kill")
SOCKETS = ("/run/systemd/notify", "/run/systemd/journal/", "/run/systemd/userdb/")


def members(group):
    said = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True).stdout
    names = {line.strip() for line in said.splitlines()[1:] if line.startswith(" ") and not line.strip().startswith("#")}
    return names.union(*(members(name) for name in names if name.startswith("@")))


def calls(table, unit):
    listed = set()
    for line in open(unit):
        if line.startswith("SystemCallFilter="):
            listed.update(line.split("=", 1)[1].split())
    named = set(name for name in listed if not name.startswith("@"))
    if len(named) != len(listed):
        sys.exit("the unit has groups in its list: " + " ".join(sorted(listed - named)))
    always = members("@default")
    never = sorted((named | always) & set(NEVER))
    if never:
        sys.exit("never to be allowed: " + " ".join(never))
    numbers = {int(number): name for name, number in (line.split() for line in open(table))}
    numbers.update((int(number), name) for name, number in zip(LATER[::2], LATER[1::2]))
    for number in range(HIGHEST):
        if number not in ALWAYS and numbers.get(number) not in named | always:
            yield number, numbers.get(number, "number %d" % number)
    here = set(numbers.values())
    print("# %d calls in the unit's list, %d of them on this machine, and %d that every unit may use"
          % (len(named), len(named & here), len(always & here - named)), file=sys.stderr)


def plan():
    tried = list(calls(*sys.argv[1:3]))
    yield from ("call\t%d\t%s" % one for one in tried)
    programs = shells = folders = sockets = 0
    loaders = [path for folder in LIBRARIES for path in (folder + "/ld-linux-x86-64.so.2", folder + "/ld-linux-aarch64.so.1")
               if os.path.exists(path)]
    for folder, below, files in os.walk("/"):
        if folder == "/":
            below[:] = sorted(set(below) - {"proc", "sys"})
        if folder != "/var/lib/cpd" and not folder.startswith("/var/lib/cpd/"):
            folders += 1
            yield "write\t" + folder
        for name in files:
            path = os.path.join(folder, name)
            try:
                found = os.stat(path)
            except OSError:
                continue
            if stat.S_ISSOCK(found.st_mode) and not os.path.realpath(path).startswith(SOCKETS):
                sockets += 1
                yield "connect\t" + path
            if not stat.S_ISREG(found.st_mode) or not found.st_mode & 0o111 or os.path.realpath(path) in PROGRAMS:
                continue
            own = path == LIBRARIES[0] + "/cpd-test/probe"
            if name.rstrip("0123456789.") in INTERPRETERS:
                shells += 1
                yield "run\t" + path
                yield from ("load\t%s\t%s" % (loader, path) for loader in loaders)
            elif not own and not os.path.realpath(path).startswith(tuple(folder + "/" for folder in LIBRARIES)):
                programs += 1
                yield "look\t" + path
    yield "run\t/var/lib/cpd/.true"
    yield "memory\t/bin/true"
    print("# tried: %d calls, %d shells and interpreters, %d other programs, %d folders, %d sockets"
          % (len(tried), shells, programs, folders, sockets), file=sys.stderr)
    if len(tried) < 200 or shells < 5 or programs < 200 or folders < 100 or sockets < 3:
        sys.exit("the probe does not try what it should")


for line in plan():
    print(line)
