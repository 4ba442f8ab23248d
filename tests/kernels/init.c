/*
 * The /init of a machine that asks its kernel: it makes the calls of /cases and prints each answer; then it
 * runs /command, where there is one.
 *
 * A line of /cases is a call (see cases.py), a line of the console one answer:
 *     @ CASE LINE RET ERRNO LEFT_GPA LEFT_SIZE LAST_ERRNO LAST_GPA LAST_SIZE PAGES_4K PAGES_2M PAGES_1G
 * LEFT is the struct after the first KVM_PRE_FAULT_MEMORY, LAST that after the loop over the rest.
 * Modules (*.ko) lie in /, in the order of /modules.  Numbers are those of linux/kvm.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define CREATE_VM 0xae01
#define CHECK_EXTENSION 0xae03
#define CREATE_VCPU 0xae41
#define GET_DIRTY_LOG 0x4010ae42
#define SET_USER_MEMORY_REGION 0x4020ae46
#define SET_USER_MEMORY_REGION2 0x40a0ae49
#define RUN 0xae80
#define GET_REGS 0x8090ae81
#define SET_REGS 0x4090ae82
#define GET_SREGS 0x8138ae83
#define SET_SREGS 0x4138ae84
#define MEMORY_ENCRYPT_OP 0xc008aeba
#define GET_STATS_FD 0xaece
#define SET_MEMORY_ATTRIBUTES 0x4020aed2
#define CREATE_GUEST_MEMFD 0xc040aed4
#define PRE_FAULT_MEMORY 0xc040aed5
#define SET_MEMORY_ATTRIBUTES2 0xc080aed2
#define MEM_GUEST_MEMFD 4u

enum { PAGE = 4096, MOST = 64, MOST_LOOPS = 100 };
#define LARGE ((uint64_t)1 << 21)

struct region { uint32_t slot, flags; uint64_t gpa, size, user, offset; uint32_t gmem, pad[29]; };
struct slot { int used; uint64_t gpa, size; char *memory; };

static struct slot slots[MOST];
static int kvm, vm, vcpus[MOST], gmems[MOST];
static long long left[5]; /* gpa, size, last errno, last gpa, last size */

static int called(int ret) { return ret < 0 ? -errno : ret; }

/* A call that does not come to an end gets a signal after a while, 0: none. */
static void alarm_in(long seconds) {
    struct itimerval soon = {{0, 0}, {seconds, 0}};
    setitimer(ITIMER_REAL, &soon, NULL);
}

/* User memory that lies as the guest's does modulo 1 GiB, so that its blocks can be the guest's; askew: 4 KiB
   off; 1g: at a multiple of 1 GiB, as a page of that size must. */
static char *memory_of(uint64_t gpa, uint64_t size, const char *how) {
    uint64_t align = (uint64_t)1 << 30;
    int huge = !strcmp(how, "1g") ? MAP_HUGETLB | 30 << 26 : !strcmp(how, "2m") ? MAP_HUGETLB | 21 << 26 : 0;
    if (!size) return NULL;
    char *all = mmap(NULL, size + 2 * align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) return NULL;
    char *at = (char *)(((uintptr_t)all + align - 1) & ~(align - 1)) + (strcmp(how, "1g") ? gpa & (align - PAGE) : 0);
    if (!strcmp(how, "askew")) at += PAGE;
    char *got = mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | huge, -1, 0);
    return got == MAP_FAILED ? NULL : got;
}

/* A guest_memfd as user space maps it, NULL where it may not. */
static char *mapping_of(const char *gmem, uint64_t size, uint64_t offset) {
    char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, gmems[atoi(gmem)], (off_t)offset);
    return at == MAP_FAILED ? NULL : at;
}

/* slot NUMBER GPA SIZE GMEM OFFSET FLAGS HOW; HOW: new or askew memory, that of before (same), its next page
   (skew), pages of 2m or 1g, or the guest_memfd mapped (gmem) */
static int set_slot(char **w) {
    uint64_t number = strtoull(w[1], 0, 0), gpa = strtoull(w[2], 0, 0), size = strtoull(w[3], 0, 0);
    struct region r = {(uint32_t)number, (uint32_t)strtoul(w[6], 0, 0), gpa, size, 0, strtoull(w[5], 0, 0), 0, {0}};
    struct slot *s = &slots[number % MOST];
    int has_gmem = strcmp(w[4], "-") != 0;
    if (s->memory && (!strcmp(w[7], "same") || !strcmp(w[7], "skew"))) r.user = (uint64_t)(uintptr_t)s->memory;
    else if (!strcmp(w[7], "gmem")) r.user = (uint64_t)(uintptr_t)mapping_of(w[4], size, r.offset);
    else r.user = (uint64_t)(uintptr_t)memory_of(gpa, size > LARGE * 1024 ? LARGE : size, w[7]);
    if (!r.user && size && strcmp(w[7], "gmem")) return -ENOMEM;
    char *memory = (char *)(uintptr_t)r.user;
    if (!strcmp(w[7], "skew")) r.user += PAGE;
    if (has_gmem) {
        unsigned file = (unsigned)atoi(w[4]);
        r.flags |= MEM_GUEST_MEMFD;
        r.gmem = file < MOST ? (uint32_t)gmems[file] : 9999;
    }
    int ret = called(ioctl(vm, has_gmem ? SET_USER_MEMORY_REGION2 : SET_USER_MEMORY_REGION, &r));
    if (!ret) *s = (struct slot){size > 0, gpa, size, memory};
    return ret;
}

static char *address_of(uint64_t gpa) {
    for (int i = 0; i < MOST; i++)
        if (slots[i].used && gpa >= slots[i].gpa && gpa < slots[i].gpa + slots[i].size)
            return slots[i].memory + (gpa - slots[i].gpa);
    return NULL;
}

/* prefault GPA SIZE VCPU FLAGS: one call, then the rest in a loop as VMMs do */
static int prefault(char **w) {
    uint64_t r[8] = {strtoull(w[1], 0, 0), strtoull(w[2], 0, 0), strtoull(w[4], 0, 0)};
    int fd = vcpus[atoi(w[3])];
    alarm_in(2);
    int first = called(ioctl(fd, PRE_FAULT_MEMORY, r)), last = first;
    left[0] = (long long)r[0];
    left[1] = (long long)r[1];
    for (int i = 0; !last && r[1] && i < MOST_LOOPS; i++) last = called(ioctl(fd, PRE_FAULT_MEMORY, r));
    alarm_in(0);
    left[2] = -last;
    left[3] = (long long)r[0];
    left[4] = (long long)r[1];
    return first;
}

static int advise(char **w) {
    static const struct { const char *name; int what; } known[] = {
        {"hugepage", MADV_HUGEPAGE}, {"nohugepage", MADV_NOHUGEPAGE}, {"dontneed", MADV_DONTNEED},
        {"populate-read", 22}, {"populate-write", 23}, {"collapse", 25},
    };
    char *at = address_of(strtoull(w[1], 0, 0));
    for (size_t i = 0; at && i < sizeof known / sizeof *known; i++)
        if (!strcmp(w[3], known[i].name)) return called(madvise(at, strtoull(w[2], 0, 0), known[i].what));
    return -EFAULT;
}

static sigjmp_buf bus;
static void on_bus(int number) { siglongjmp(bus, number); }

/* User space writes; EFAULT where a page of its memory is not to be had (SIGBUS). */
static int write_memory(char **w) {
    char *at = address_of(strtoull(w[1], 0, 0));
    if (!at || sigsetjmp(bus, 1)) return -EFAULT;
    memset(at, atoi(w[3]), strtoull(w[2], 0, 0));
    return 0;
}

/* code GPA HEX */
static int write_code(char **w) {
    unsigned char *at = (unsigned char *)address_of(strtoull(w[1], 0, 0));
    unsigned byte;
    for (const char *hex = w[2]; at && sscanf(hex, "%2x", &byte) == 1; hex += 2) *at++ = (unsigned char)byte;
    return at ? 0 : -EFAULT;
}

/* A vCPU runs in real mode from an address on, up to a HLT or a signal. */
static int run_from(int fd, uint64_t gpa) {
    uint64_t regs[18], base = 0;
    uint8_t sregs[312];
    uint32_t *kvm_run = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (kvm_run == MAP_FAILED || ioctl(fd, GET_SREGS, sregs) || ioctl(fd, GET_REGS, regs)) return -EIO;
    memcpy(sregs, &base, 8); /* CS: base, limit, selector */
    memset(sregs + 12, 0, 2);
    regs[16] = gpa;
    regs[17] = 2;
    if (ioctl(fd, SET_SREGS, sregs) || ioctl(fd, SET_REGS, regs)) return -EIO;
    int ret = called(ioctl(fd, RUN, 0));
    ret = ret ? ret : (int)kvm_run[2]; /* exit_reason: 5 is HLT */
    munmap(kvm_run, PAGE);
    return ret;
}

/* run VCPU GPA: for two seconds at most */
static int run(char **w) {
    alarm_in(2);
    int ret = run_from(vcpus[atoi(w[1])], strtoull(w[2], 0, 0));
    alarm_in(0);
    return ret;
}

static struct { pthread_t thread; int fd, ret; uint64_t gpa; } running;

static void *runs(void *unused) {
    running.ret = run_from(running.fd, running.gpa);
    return unused;
}

/* start VCPU GPA: one vCPU at a time runs beside the other calls */
static int start(char **w) {
    running.fd = vcpus[atoi(w[1])];
    running.gpa = strtoull(w[2], 0, 0);
    int ret = -pthread_create(&running.thread, NULL, runs, NULL);
    usleep(50000);
    return ret;
}

/* stop VCPU: EINTR, or whatever ended the run before */
static int stop(char **w) {
    (void)w;
    pthread_kill(running.thread, SIGALRM);
    int ret = -pthread_join(running.thread, NULL);
    return ret ? ret : running.ret;
}

static int create_gmem(char **w) {
    uint64_t made[8] = {strtoull(w[2], 0, 0), strtoull(w[3], 0, 0)};
    int fd = called(ioctl(vm, CREATE_GUEST_MEMFD, made));
    if (fd >= 0) gmems[atoi(w[1])] = fd;
    return fd < 0 ? fd : 0;
}

static int create_vcpu(char **w) {
    int fd = called(ioctl(vm, CREATE_VCPU, atol(w[1])));
    if (fd >= 0 && atol(w[1]) < MOST) vcpus[atol(w[1])] = fd;
    return fd < 0 ? fd : 0;
}

static int set_attributes(char **w) {
    uint64_t r[4] = {strtoull(w[1], 0, 0), strtoull(w[2], 0, 0), strtoull(w[3], 0, 0), 0};
    return called(ioctl(vm, SET_MEMORY_ATTRIBUTES, r));
}

/* attributes2 GMEM OFFSET SIZE ATTRIBUTES: of the file, as a kernel with in-place conversion takes them */
static int set_attributes2(char **w) {
    uint64_t r[16] = {strtoull(w[2], 0, 0), strtoull(w[3], 0, 0), strtoull(w[4], 0, 0)};
    return called(ioctl(gmems[atoi(w[1])], SET_MEMORY_ATTRIBUTES2, r));
}

static int punch(char **w) {
    unsigned file = (unsigned)atoi(w[1]);
    int mode = 3; /* FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE */
    return called((int)syscall(SYS_fallocate, gmems[file % MOST], mode, strtoull(w[2], 0, 0), strtoull(w[3], 0, 0)));
}

static int map_gmem(char **w) {
    size_t size = strtoull(w[2], 0, 0);
    char *at = mapping_of(w[1], size, 0);
    if (!at) return -errno;
    munmap(at, size);
    return 0;
}

/* touch GMEM OFFSET: user space writes a byte; EFAULT where it gets SIGBUS */
static int touch(char **w) {
    char *at = mapping_of(w[1], PAGE, strtoull(w[2], 0, 0));
    if (!at) return -errno;
    volatile int ret = -EFAULT;
    if (!sigsetjmp(bus, 1)) {
        *(volatile char *)at = 1;
        ret = 0;
    }
    munmap(at, PAGE);
    return ret;
}

/* How many pages of each size the VM has mapped, by its statistics. */
static void pages(long long *counts) {
    struct { uint32_t flags, name_size, count, id_at, desc_at, data_at; } head;
    struct { uint32_t flags; int16_t exponent; uint16_t size; uint32_t offset, bucket; char name[64]; } one;
    static const char *const names[] = {"pages_4k", "pages_2m", "pages_1g"};
    int fd = ioctl(vm, GET_STATS_FD, 0);
    if (fd < 0 || pread(fd, &head, sizeof head, 0) != sizeof head || head.name_size > sizeof one.name) return;
    for (uint32_t i = 0; i < head.count; i++) {
        size_t size = 16 + head.name_size;
        if (pread(fd, &one, size, head.desc_at + i * size) != (ssize_t)size) break;
        for (int n = 0; n < 3; n++)
            if (!strcmp(one.name, names[n]) && pread(fd, &counts[n], 8, head.data_at + one.offset) != 8) counts[n] = -1;
    }
    close(fd);
}


static const struct { const char *name; int (*make)(char **); } calls[] = {
    {"slot", set_slot}, {"gmem", create_gmem}, {"vcpu", create_vcpu}, {"attributes", set_attributes},
    {"prefault", prefault}, {"punch", punch}, {"advise", advise}, {"write", write_memory}, {"run", run},
    {"mapgmem", map_gmem}, {"touch", touch}, {"code", write_code}, {"start", start}, {"stop", stop},
    {"attributes2", set_attributes2},
};

static int made(char **w) {
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (!strcmp(w[0], calls[i].name)) return calls[i].make(w);
    if (!strcmp(w[0], "capability")) return called(ioctl(vm, CHECK_EXTENSION, atol(w[1])));
    if (!strcmp(w[0], "encrypt")) return called(ioctl(atoi(w[1]) ? vcpus[0] : vm, MEMORY_ENCRYPT_OP, left));
    return -ENOSYS;
}

/* /command: a program and its arguments, one a line; its output is the console's. */
static int command(FILE *lines) {
    char *words[64] = {0}, text[512];
    for (int n = 0; n < 63 && fgets(text, sizeof text, lines); n++) {
        text[strcspn(text, "\n")] = 0;
        words[n] = strdup(text);
    }
    pid_t child = fork();
    if (!child) {
        execv(words[0], words);
        _exit(127);
    }
    int status = 0;
    return waitpid(child, &status, 0) < 0 ? -errno : WEXITSTATUS(status);
}

/* A case begins with a VM of its own. */
static int begin(long type) {
    for (int fd = kvm + 1; fd < 512; fd++) close(fd);
    for (int i = 0; i < MOST; i++)
        if (slots[i].memory) munmap(slots[i].memory, slots[i].size);
    memset(slots, 0, sizeof slots);
    memset(gmems, 0x7f, sizeof gmems);
    memset(vcpus, 0x7f, sizeof vcpus);
    vm = called(ioctl(kvm, CREATE_VM, type));
    return vm < 0 ? vm : 0;
}

static void answer(int number, int line, int ret) {
    long long counts[3] = {0, 0, 0};
    if (vm >= 0) pages(counts);
    printf("@ %d %d %d %d", number, line, ret < 0 ? -1 : ret, ret < 0 ? -ret : 0);
    for (int i = 0; i < 5; i++) printf(" %#llx", (unsigned long long)left[i]);
    printf(" %lld %lld %lld\n", counts[0], counts[1], counts[2]);
}

static void ask(FILE *cases) {
    char text[512], *words[9];
    int number = -1, line = 0, ret;
    while (fgets(text, sizeof text, cases)) {
        int count = 0;
        for (char *word = strtok(text, " \n"); word && count < 8; word = strtok(NULL, " \n")) words[count++] = word;
        if (!count) continue;
        memset(left, 0, sizeof left);
        if (!strcmp(words[0], "case")) {
            number++;
            line = 0;
            ret = begin(atol(words[1]));
        } else if (vm < 0) continue;
        else ret = made(words);
        answer(number, line++, ret);
    }
}

static void load_modules(void) {
    FILE *list = fopen("/modules", "r");
    char name[256];
    while (list && fgets(name, sizeof name, list)) {
        name[strcspn(name, "\n")] = 0;
        int fd = open(name, O_RDONLY), ret = (int)syscall(SYS_finit_module, fd, strstr(name, "kvm-amd") ? "npt=1" : "", 0);
        if (fd < 0 || ret) printf("! %s: %s\n", name, strerror(errno));
        close(fd);
    }
}

static void ignore(int number) { (void)number; }

int main(void) {
    struct utsname host;
    struct sigaction action = {.sa_handler = ignore};
    mkdir("/dev", 0755);
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    sigaction(SIGALRM, &action, NULL);
    action.sa_handler = on_bus;
    sigaction(SIGBUS, &action, NULL);
    load_modules();
    uname(&host);
    kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    printf("# %s %d\n", host.release, kvm < 0 ? errno : 0);
    FILE *cases = fopen("/cases", "r");
    if (kvm >= 0 && cases) {
        if (dup2(kvm, 10) == 10) { close(kvm); kvm = 10; }
        ask(cases);
    }
    FILE *lines = fopen("/command", "r");
    if (lines) printf("# command %d\n", command(lines));
    printf("# end\n");
    sync();
    reboot(RB_POWER_OFF);
    return 0;
}
