/* Run with the properties of cpd.service: tries what probe.py has written down, one line each on standard input, and says
 * what was allowed. In C, because it may use no more calls than cpd itself does: no wait4, no dup2, no alarm.
 *
 *   call NUMBER NAME     a system call, with arguments that do nothing where it is allowed
 *   run PATH             a program
 *   look PATH            the same without running it: a file that may not be executed where it is says so
 *   load LOADER PATH     a shell, by way of the dynamic loader
 *   write FOLDER         a new file
 *   connect PATH         a Unix socket
 *   memory PATH          a copy of a program in memory that no file has; said, and not counted
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static int tried, allowed;

/* What a child tells: nothing (it ended, or became another program), a byte for a refusal, more for output. */
enum outcome { REFUSED, ENDED, SILENT, ABSENT, SAID };

static enum outcome outcome_of(int from, pid_t child) {
    char said = 0;
    struct pollfd ready = {from, POLLIN, 0};
    enum outcome outcome = SILENT;
    if (poll(&ready, 1, 3000) == 1) {
        ssize_t got = read(from, &said, 1);
        outcome = got != 1 ? ENDED : said == 'E' ? REFUSED : said == 'N' ? ABSENT : SAID;
    }
    kill(child, SIGKILL);
    close(from);
    return outcome;
}

/* In a child, whose first byte is read. */
static enum outcome apart(void (*work)(int out, void *with), void *with, int flags) {
    int ends[2];
    if (pipe2(ends, flags) != 0) {
        perror("pipe2");
        exit(2);
    }
    pid_t child = fork();
    if (child < 0) {
        perror("fork");
        exit(2);
    }
    if (child == 0) {
        close(ends[0]);
        work(ends[1], with);
        _exit(0);
    }
    close(ends[1]);
    return outcome_of(ends[0], child);
}

static void found(int bad, const char *what, const char *which) {
    tried++;
    if (bad) {
        allowed++;
        printf("allowed: %s %s\n", what, which);
    }
}

static void call(int out, void *with) {
    long number = *(long *)with;
    errno = 0;
    long result = syscall(number, -1L, 0L, 0L, 0L, 0L, 0L);
    char said = result == -1 && errno == EPERM ? 'E' : result == -1 && errno == ENOSYS ? 'N' : 'A';
    (void)!write(out, &said, 1);
}

static void run(int out, void *with) {
    char *path = with, *arguments[] = {path, "-c", ":", NULL};
    close(1);
    close(2);
    execve(path, arguments, (char *[]){NULL});
    (void)!write(out, "E", 1);
}

static void load(int out, void *with) {
    char **words = with, *arguments[] = {words[0], words[1], "-c", "echo ran", NULL};
    close(1);
    close(2);
    fcntl(out, F_DUPFD, 1);
    fcntl(open("/dev/null", O_WRONLY), F_DUPFD, 2);
    execve(words[0], arguments, (char *[]){NULL});
    (void)!write(out, "E", 1);
}

static void from_memory(int out, void *with) {
    char buffer[4096];
    int from = open(with, O_RDONLY), to = memfd_create("probe", MFD_CLOEXEC);
    ssize_t got;
    while ((got = read(from, buffer, sizeof buffer)) > 0)
        (void)!write(to, buffer, got);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", to);
    run(out, path);
}

static int may_connect(const char *path) {
    int kinds[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET}, yes = 0;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    for (int i = 0; i < 3; i++) {
        int one = socket(AF_UNIX, kinds[i] | SOCK_NONBLOCK, 0);
        yes |= connect(one, (struct sockaddr *)&address, sizeof address) == 0 || errno == EAGAIN;
        close(one);
    }
    return yes;
}

static int may_write(const char *folder) {
    char path[5000];
    snprintf(path, sizeof path, "%s/.cpd-probe", folder);
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (file < 0)
        return 0;
    close(file);
    unlink(path);
    return 1;
}

static void sockets(void) {
    int kinds[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_RDM};
    char name[64];
    for (int family = 0; family < 64; family++)
        for (int kind = 0; kind < 5 && family != AF_UNIX; kind++) {
            int pair[2];
            snprintf(name, sizeof name, "family %d, kind %d", family, kinds[kind]);
            found(socket(family, kinds[kind], 0) >= 0, "socket", name);
            found(socketpair(family, kinds[kind], 0, pair) == 0, "socketpair", name);
        }
}

/* Memory that can be written and executed. */
static void memory(void) {
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    found(page != MAP_FAILED, "memory", "to be written and executed");
    page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    found(mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0, "memory", "executed after it was written");
}

#ifdef __x86_64__
static void other_numbers(int out, void *with) {
    long result;
    (void)with;
    /* getpid by the numbers of 32-bit programs, and by those of x32. */
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L) : "r8", "r9", "r10", "r11", "memory");
    if (result <= 0)
        result = syscall(0x40000000L | SYS_getpid);
    (void)!write(out, result > 0 ? "A" : "E", 1);
}
#endif

static void one(char *line) {
    char *kind = strtok(line, "\t\n"), *first = strtok(NULL, "\t\n"), *second = strtok(NULL, "\t\n");
    if (!kind || !first)
        return;
    if (!strcmp(kind, "call")) {
        long number = atol(first);
        enum outcome outcome = apart(call, &number, O_CLOEXEC);
        found(outcome != REFUSED && outcome != ABSENT, "call", second ? second : first);
    } else if (!strcmp(kind, "run")) {
        found(apart(run, first, O_CLOEXEC) != REFUSED, "program", first);
    } else if (!strcmp(kind, "look")) {
        found(access(first, X_OK) == 0, "program", first);
    } else if (!strcmp(kind, "load")) {
        char *words[] = {first, second};
        found(apart(load, words, 0) == SAID, "program by way of the loader", second);
    } else if (!strcmp(kind, "write")) {
        found(may_write(first), "file in", first);
    } else if (!strcmp(kind, "connect")) {
        found(may_connect(first), "connection to", first);
    } else if (!strcmp(kind, "memory")) {
        printf("%s: a program in memory that belongs to no file\n",
               apart(from_memory, first, O_CLOEXEC) == REFUSED ? "refused" : "known to be allowed");
    }
}

int main(void) {
    static char line[10000];
    /* Children are not waited for. */
    signal(SIGCHLD, SIG_IGN);
    while (fgets(line, sizeof line, stdin))
        one(line);
    sockets();
    memory();
#ifdef __x86_64__
    enum outcome outcome = apart(other_numbers, NULL, O_CLOEXEC);
    found(outcome == SAID, "call", "by numbers of other programs");
#endif
    /* That it fails because of the sandbox, and not because nothing works. */
    int pair[2];
    if (geteuid() == 0 || !may_write("/var/lib/cpd") || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0 ||
        apart(run, "/usr/bin/kill", O_CLOEXEC) != ENDED) {
        printf("nothing works here\n");
        return 2;
    }
    printf("tried %d, allowed %d\n", tried, allowed);
    return allowed > 0;
}
