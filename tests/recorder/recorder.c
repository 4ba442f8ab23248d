/*
 * Records what a VMM asks of KVM, up to the first KVM_RUN: one line of JSON for each ioctl.
 *
 * Preloaded into an unmodified VMM (LD_PRELOAD).  It answers as a host with SEV-SNP and TDX would, so
 * that the whole launch is told; no guest code ever runs, and neither KVM nor the hardware is needed.
 *
 *   CVMPLAN_RECORDING=FILE     where the lines go; the contents that calls take go to FILE.contents,
 *                              and a line says where they are: {"size": bytes, "at": offset}
 *   CVMPLAN_RECORDER_KVM=real  plain calls go to /dev/kvm where that opens.  Else a KVM that keeps
 *                              what it is told answers them, and a recording is alike everywhere
 *   CVMPLAN_RECORDER_FAULT=partial|again|intr|busy|cpuid
 *                              adds of more than 5 pages stop after these, twice, without or with
 *                              that error; cpuid: the first CPUID page is refused, and corrected
 *
 * Numbers and layouts are those of linux/kvm.h and asm/kvm.h, typed in: a machine's headers may be
 * older than the calls.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* --- KVM ------------------------------------------------------------------------------------- */

#define GET_API_VERSION 0xae00
#define CREATE_VM 0xae01
#define GET_MSR_INDEX_LIST 0xc004ae02
#define CHECK_EXTENSION 0xae03
#define GET_VCPU_MMAP_SIZE 0xae04
#define GET_SUPPORTED_CPUID 0xc008ae05
#define GET_MSR_FEATURE_INDEX_LIST 0xc004ae0a
#define CREATE_VCPU 0xae41
#define SET_USER_MEMORY_REGION 0x4020ae46
#define SET_USER_MEMORY_REGION2 0x40a0ae49
#define GET_IRQCHIP 0xc208ae62
#define RUN 0xae80
#define GET_REGS 0x8090ae81
#define SET_REGS 0x4090ae82
#define GET_SREGS 0x8138ae83
#define SET_SREGS 0x4138ae84
#define GET_MSRS 0xc008ae88
#define SET_MSRS 0x4008ae89
#define GET_LAPIC 0x8400ae8e
#define SET_LAPIC 0x4400ae8f
#define SET_CPUID2 0x4008ae90
#define GET_CPUID2 0xc008ae91
#define GET_MP_STATE 0x8004ae98
#define SET_MP_STATE 0x4004ae99
#define GET_MCE_CAP 0x8008ae9d
#define GET_VCPU_EVENTS 0x8040ae9f
#define SET_VCPU_EVENTS 0x4040aea0
#define GET_DEBUGREGS 0x8080aea1
#define SET_DEBUGREGS 0x4080aea2
#define GET_TSC_KHZ 0xaea3
#define ENABLE_CAP 0x4068aea3
#define GET_XSAVE 0x9000aea4
#define SET_XSAVE 0x5000aea5
#define GET_XCRS 0x8188aea6
#define SET_XCRS 0x4188aea7
#define MEMORY_ENCRYPT_OP 0xc008aeba
#define ENC_REG_REGION 0x8010aebb
#define ENC_UNREG_REGION 0x8010aebc
#define GET_SREGS2 0x8140aecc
#define SET_SREGS2 0x4140aecd
#define GET_STATS_FD 0xaece
#define GET_XSAVE2 0x9000aecf
#define SET_MEMORY_ATTRIBUTES 0x4020aed2
#define CREATE_GUEST_MEMFD 0xc040aed4
#define GET_DEVICE_ATTR 0x4018aee2
#define HAS_DEVICE_ATTR 0x4018aee3

enum vm_type { DEFAULT_VM, SEV_VM = 2, ES_VM, SNP_VM, TDX_VM };
enum { CAP_READONLY_MEM = 81, CAP_SMM = 117, CAP_MAX_VCPUS = 190, CAP_USER_MEMORY2 = 231,
       CAP_MEMORY_ATTRIBUTES = 233, CAP_GUEST_MEMFD = 234, CAP_VM_TYPES = 235 };
enum { SEV_INIT, SEV_ES_INIT, SEV_LAUNCH_UPDATE_DATA = 3, SEV_LAUNCH_UPDATE_VMSA, SEV_LAUNCH_SECRET,
       SEV_LAUNCH_MEASURE, SEV_GUEST_STATUS = 8, SNP_LAUNCH_UPDATE = 101, SNP_LAUNCH_FINISH };
enum { TDX_CAPABILITIES, TDX_INIT_VM, TDX_INIT_VCPU, TDX_INIT_MEM_REGION, TDX_GET_CPUID = 5 };
enum { SNP_ZERO = 3, SNP_CPUID = 6, INVALID_LENGTH = 4, INVALID_PARAM = 22 };

enum { PAGE = 4096, FAULT_SIZE = 5 * PAGE, MOST_FDS = 8192, MOST_VCPUS = 1024, MOST_MSRS = 256 };
#define NOT_MINE (-PAGE) /* no errno: plain KVM answers, real or not */
#define COUNT(a) (sizeof(a) / sizeof *(a))

struct cpuid { uint32_t function, index, flags, eax, ebx, ecx, edx, pad[3]; };
struct msr { uint32_t index, pad; uint64_t value; };

/* What a vCPU was told. */
struct vcpu {
    uint8_t regs[144], sregs[320], xsave[PAGE], xcrs[392], debugregs[128], events[64], lapic[1024];
    uint32_t mp_state;
    int fd, msr_count;
    struct msr msrs[MOST_MSRS];
};
/* The calls that set and read it; kvm_sregs and kvm_sregs2 agree in their first 280 bytes. */
#define KEPT(set, get, name, size) {set, get, offsetof(struct vcpu, name), size}
static const struct { unsigned set, get; size_t at, size; } kept[] = {
    KEPT(SET_REGS, GET_REGS, regs, 144), KEPT(SET_SREGS, GET_SREGS, sregs, 280),
    KEPT(SET_SREGS2, GET_SREGS2, sregs, 320), KEPT(SET_XSAVE, GET_XSAVE, xsave, PAGE),
    KEPT(0, GET_XSAVE2, xsave, PAGE), KEPT(SET_XCRS, GET_XCRS, xcrs, 392),
    KEPT(SET_DEBUGREGS, GET_DEBUGREGS, debugregs, 128), KEPT(SET_VCPU_EVENTS, GET_VCPU_EVENTS, events, 64),
    KEPT(SET_LAPIC, GET_LAPIC, lapic, 1024), KEPT(SET_MP_STATE, GET_MP_STATE, mp_state, 4),
};

/* KVM_CHECK_EXTENSION: what is 1, and what has another value; the rest is 0. */
static const int has[] = {0, 3, 4, 7, 14, 16, 21, 23, 26, 30, 32, 33, 35, 36, 37, 40, 41, 50, 51, 55, 56, 61,
                          72, 76, 77, 81, 82, 117, 118, 122, 136, 153, 162, 164, 188, 200, 209, 218, 237};
static const int values[][2] = {{9, MOST_VCPUS}, {10, 32764}, {15, 2}, {25, PAGE}, {31, 32}, {39, 14},
                                {66, MOST_VCPUS}, {168, 3}, {195, 0x1f007f}, {208, PAGE}};
/* KVM_GET_SUPPORTED_CPUID: every feature bit, so that a CPU model is what its name says; no AMX, whose
   XSAVE area is larger than KVM_SET_XSAVE takes. */
#define ALL 0xffffffffu
static const struct cpuid supported[] = {
    {0, 0, 0, 0x20, 0x68747541, 0x444d4163, 0x69746e65, {0}}, {1, 0, 0, 0, 0, ALL, ALL, {0}},
    {2, 0, 0, 0, 0, 0, 0, {0}}, {4, 0, 1, 0, 0, 0, 0, {0}}, {5, 0, 0, 0, 0, 0, 0, {0}},
    {6, 0, 0, 4, 0, 0, 0, {0}}, {7, 0, 1, 2, ALL, ALL, ALL, {0}}, {7, 1, 1, ALL, ALL, ALL, ALL, {0}},
    {7, 2, 1, 0, 0, 0, ALL, {0}}, {0xb, 0, 1, 0, 0, 0, 0, {0}}, {0xd, 0, 1, 0x2e7, 0xa88, 0xa88, 0, {0}},
    {0xd, 1, 1, 0xf, 0xa88, 0x1800, 0, {0}}, {0xd, 2, 1, 0x100, 0x240, 0, 0, {0}},
    {0xd, 5, 1, 0x40, 0x440, 0, 0, {0}}, {0xd, 6, 1, 0x200, 0x480, 0, 0, {0}},
    {0xd, 7, 1, 0x400, 0x680, 0, 0, {0}}, {0xd, 9, 1, 8, 0xa80, 0, 0, {0}}, {0xd, 11, 1, 0x10, 0, 1, 0, {0}},
    {0xd, 12, 1, 0x18, 0, 1, 0, {0}}, {0x40000000, 0, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d, {0}},
    {0x40000001, 0, 0, 0x100feff, 0, 0, 0, {0}},
    {0x80000000, 0, 0, 0x80000022, 0x68747541, 0x444d4163, 0x69746e65, {0}},
    {0x80000001, 0, 0, 0, 0, ALL, ALL, {0}}, {0x80000007, 0, 0, 0, 0, 0, 0x100, {0}},
    {0x80000008, 0, 0, 0x3030, ALL, 0, 0, {0}}, {0x8000000a, 0, 0, 1, 0x8000, 0, ALL, {0}},
    {0x8000001f, 0, 0, 0x1f, 0x33, 0x1ff, 1, {0}}, {0x80000021, 0, 0, ALL, ALL, ALL, 0, {0}},
    {0x80000022, 0, 0, 0, 0, 0, 0, {0}},
};
static const uint32_t msr_list[] = {
    0x10, 0x3b, 0x174, 0x175, 0x176, 0x277, 0x6e0, 0xda0, 0x1a0, 0xc0000080, 0xc0000081, 0xc0000082, 0xc0000083,
    0xc0000084, 0xc0000100, 0xc0000101, 0xc0000102, 0xc0000103, 0xc0010117, 0x4b564d00, 0x4b564d01};
static const uint32_t feature_msrs[] = {0xc0011029};
/* KVM_TDX_CAPABILITIES: SEPT_VE_DISABLE alone, XFAM without AMX, and the CPUID bits that are configurable. */
static const uint64_t td_attributes = 1u << 28, td_xfam = 0x1ae7;
static const struct cpuid td_configurable[] = {
    {1, 0, 0, 0xfff3fff, 0, 0x31044508, 0x804e4000, {0}}, {4, 0, 1, 0, 0, 0, 0, {0}},
    {7, 0, 1, 0, 0xd02b0b18, 0x1b415f6e, 0x114510, {0}}, {7, 1, 1, 0x1c30, 0, 0, 0, {0}},
    {7, 2, 1, 0, 0, 0, 0x1f, {0}}, {0xd, 1, 1, 0x10, 0, 0, 0, {0}}, {0x80000007, 0, 0, 0, 0, 0, 0x100, {0}},
    {0x80000008, 0, 0, 0xff0000, 0x200, 0, 0, {0}}};

/* --- what was recorded so far ---------------------------------------------------------------- */

enum kind { OTHER, KVM, VM, VCPU, GMEM, SEV, STATS };
static const char *const kinds[] = {"", "kvm", "vm", "vcpu", "gmem", "sev", "stats"};
static struct { enum kind kind; int index; } fds[MOST_FDS];
static struct vcpu *vcpus[MOST_VCPUS];
static enum vm_type vm_type;
static int is_legacy, is_real, gmems, measures, faults = 2;
static uint32_t td_entries;
static struct cpuid td_cpuid[100];
static long sequence, contents_size;
static const char *fault = "";
static FILE *out, *contents;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int (*real_ioctl)(int, unsigned long, ...);
static int (*real_openat)(int, const char *, int, ...);
static int (*real_close)(int);

static uint32_t at32(const void *p, size_t at) { uint32_t v; memcpy(&v, (const char *)p + at, 4); return v; }
static uint64_t at64(const void *p, size_t at) { uint64_t v; memcpy(&v, (const char *)p + at, 8); return v; }
static void put32(void *p, size_t at, uint32_t v) { memcpy((char *)p + at, &v, 4); }
static void put64(void *p, size_t at, uint64_t v) { memcpy((char *)p + at, &v, 8); }
static void *pointer(uint64_t address) { return (void *)(uintptr_t)address; }

/* , "NAME": "bytes in hex" */
static void write_hex(const char *name, const void *data, size_t size) {
    fprintf(out, ", \"%s\": \"", name);
    for (size_t i = 0; i < size; i++) fprintf(out, "%02x", ((const uint8_t *)data)[i]);
    fputc('"', out);
}

/* , "NAME": {"size": bytes, "at": where they are in FILE.contents} */
static void write_contents(const char *name, const void *data, size_t size) {
    fprintf(out, ", \"%s\": {\"size\": %zu, \"at\": %ld}", name, size, contents_size);
    contents_size += (long)fwrite(data, 1, size, contents);
}

static struct msr *msr_of(struct vcpu *v, uint32_t index) {
    for (int i = 0; i < v->msr_count; i++)
        if (v->msrs[i].index == index) return &v->msrs[i];
    if (v->msr_count == MOST_MSRS) return NULL;
    v->msrs[v->msr_count].index = index;
    return &v->msrs[v->msr_count++];
}

/* The registers of every vCPU, as a kernel would measure them now. */
static void write_states(void) {
    static const uint32_t named[] = {0x277, 0xc0000080, 0xda0, 0x1b}; /* PAT, EFER, XSS, APIC_BASE */
    for (int i = 0; i < MOST_VCPUS; i++) {
        struct vcpu *v = vcpus[i];
        if (!v) continue;
        for (size_t k = 0; is_real && k < 7; k++) real_ioctl(v->fd, kept[k].get, (char *)v + kept[k].at);
        fprintf(out, "{\"n\": %ld, \"on\": \"vcpu\", \"i\": %d, \"req\": \"0x0\", \"call\": \"state\"", sequence++, i);
        write_hex("regs", v->regs, sizeof v->regs);
        write_hex("sregs", v->sregs, sizeof v->sregs);
        write_hex("xsave", v->xsave, 576);
        write_hex("xcrs", v->xcrs, sizeof v->xcrs);
        write_hex("debugregs", v->debugregs, sizeof v->debugregs);
        for (size_t m = 0; m < COUNT(named); m++) {
            struct msr *known = msr_of(v, named[m]);
            struct { uint32_t count, pad; struct msr one; } asked = {1, 0, {named[m], 0, known ? known->value : 0}};
            if (is_real) real_ioctl(v->fd, GET_MSRS, &asked);
            fprintf(out, ", \"msr_%x\": \"0x%llx\"", named[m], (unsigned long long)asked.one.value);
        }
        fputs(", \"ret\": 0, \"fake\": true}\n", out);
    }
}

/* --- a plain KVM that keeps what it is told -------------------------------------------------- */

/* A descriptor that stands for something of KVM; its memory can be mapped, as kvm_run is. */
static int new_fd(enum kind kind, int index, off_t size) {
    int fd = memfd_create(kinds[kind], MFD_CLOEXEC);
    if (fd < 0 || fd >= MOST_FDS || ftruncate(fd, size)) return -EMFILE;
    fds[fd].kind = kind;
    fds[fd].index = index;
    return fd;
}

/* {count, numbers}: E2BIG with the count that is needed. */
static int index_list(uint32_t *list, const uint32_t *numbers, uint32_t count) {
    uint32_t room = list[0];
    list[0] = count;
    if (room < count) return -E2BIG;
    memcpy(list + 1, numbers, count * sizeof *numbers);
    return 0;
}

/* struct kvm_cpuid2 */
static int cpuid_list(void *to, const struct cpuid *entries, uint32_t count) {
    if (at32(to, 0) < count) return -E2BIG;
    put32(to, 0, count);
    memcpy((char *)to + 8, entries, count * sizeof *entries);
    return 0;
}

/* XRSTOR: a component whose bit in XSTATE_BV is clear has its initial state. */
static void initialise_xsave(uint8_t *area) {
    uint64_t present = at64(area, 512);
    if (!(present & 1)) {
        memset(area, 0, 24);
        memset(area + 32, 0, 128);
        put32(area, 0, 0x37f);
    }
    if (!(present & 6)) put32(area, 24, 0x1f80);
    if (!(present & 2)) memset(area + 160, 0, 256);
}

static int plain_vcpu(struct vcpu *v, unsigned request, void *p) {
    for (size_t i = 0; i < COUNT(kept); i++) {
        if (request == kept[i].get) memcpy(p, (char *)v + kept[i].at, kept[i].size);
        if (request == kept[i].set) memcpy((char *)v + kept[i].at, p, kept[i].size);
    }
    struct msr *entries = (struct msr *)((char *)p + 8), *known;
    switch (request) {
    case SET_XSAVE: initialise_xsave(v->xsave); return 0;
    case GET_CPUID2: if (at32(p, 0) < 30) return -E2BIG; put32(p, 0, 0); return 0;
    case GET_TSC_KHZ: return 2500000;
    case GET_STATS_FD: return new_fd(STATS, 0, PAGE);
    case SET_MSRS: case GET_MSRS:
        for (uint32_t i = 0; i < at32(p, 0); i++) {
            if (!(known = msr_of(v, entries[i].index))) return (int)i;
            if (request == SET_MSRS) known->value = entries[i].value; else entries[i].value = known->value;
        }
        return (int)at32(p, 0);
    }
    return 0;
}

/* Calls without an answer of their own succeed, and what they read is zero. */
static int plain(enum kind kind, int index, unsigned request, unsigned long arg) {
    void *p = (void *)arg;
    if (kind == VCPU) return plain_vcpu(vcpus[index], request, p);
    switch (request) {
    case GET_API_VERSION: return 12;
    case CREATE_VM: return new_fd(VM, 0, 0);
    case GET_VCPU_MMAP_SIZE: return 3 * PAGE;
    case CREATE_VCPU: return new_fd(VCPU, (int)arg, 3 * PAGE);
    case GET_TSC_KHZ: return 2500000;
    case GET_MSR_INDEX_LIST: return index_list(p, msr_list, COUNT(msr_list));
    case GET_MSR_FEATURE_INDEX_LIST: return index_list(p, feature_msrs, COUNT(feature_msrs));
    case GET_SUPPORTED_CPUID: return cpuid_list(p, supported, COUNT(supported));
    case GET_MSRS: put64(p, 16, 0); return (int)at32(p, 0);
    case GET_MCE_CAP: put64(p, 0, 0x900010a); return 0;
    case GET_DEVICE_ATTR: put64(pointer(at64(p, 16)), 0, 0x2e7); return 0; /* XSAVE features of guests */
    case GET_IRQCHIP: memset((char *)p + 8, 0, 512); return 0;
    case CHECK_EXTENSION:
        for (size_t i = 0; i < COUNT(has); i++) if ((unsigned long)has[i] == arg) return 1;
        for (size_t i = 0; i < COUNT(values); i++) if ((unsigned long)values[i][0] == arg) return values[i][1];
        return 0;
    }
    if (request >> 30 == 2 && request != ENC_REG_REGION) memset(p, 0, request >> 16 & 0x3fff);
    return 0;
}

/* An older kernel has neither guest_memfd nor its memslots: the start of their struct is the same. */
static int on_real(int fd, unsigned request, unsigned long arg) {
    uint32_t region[8];
    if (request == SET_USER_MEMORY_REGION2) {
        memcpy(region, (void *)arg, sizeof region);
        region[1] &= ~4u;
        arg = (unsigned long)region;
        request = SET_USER_MEMORY_REGION;
    }
    int ret = real_ioctl(fd, request, request == CREATE_VM ? DEFAULT_VM : arg);
    return ret < 0 ? -errno : ret;
}

/* --- what makes a host confidential, in both modes ------------------------------------------- */

/* How many bytes of an add are done before the fault that is asked for, and what it returns. */
static uint64_t with_fault(uint64_t size, int *ret) {
    static const struct { const char *name; int error; } known[] = {
        {"partial", 0}, {"again", -EAGAIN}, {"intr", -EINTR}, {"busy", -EBUSY}};
    for (size_t i = 0; i < COUNT(known); i++)
        if (!strcmp(fault, known[i].name) && faults > 0 && size > FAULT_SIZE) {
            faults--;
            *ret = known[i].error;
            return FAULT_SIZE;
        }
    return size;
}

/* struct kvm_sev_snp_launch_update: gfn_start, uaddr, len, type; it says what is left. */
static int snp_update(void *command, char *data) {
    int ret = 0;
    uint64_t size = at64(data, 16), done = with_fault(size, &ret);
    uint8_t *from = pointer(at64(data, 8));
    if (data[24] == SNP_CPUID && !strcmp(fault, "cpuid") && faults > 0) {
        faults = 0;
        done = 0;
        ret = -EIO;
        put32(command, 16, INVALID_PARAM);
        from[16 + 0x10] ^= 1; /* the firmware's correction: EAX of the first entry */
    }
    if (data[24] != SNP_ZERO) write_contents("source", from, done);
    put64(data, 0, at64(data, 0) + done / PAGE);
    put64(data, 8, at64(data, 8) + done);
    put64(data, 16, size - done);
    return ret;
}

/* struct kvm_sev_cmd: id, data, error, fd of /dev/sev. */
static int sev_command(void *command) {
    static const uint8_t sizes[] = {[2] = 40, [3] = 16, [5] = 48, [6] = 16, [8] = 16, [22] = 48, [100] = 64,
                                    [101] = 64, [102] = 88};
    uint32_t id = at32(command, 0);
    char *data = pointer(at64(command, 8));
    fprintf(out, ", \"cmd\": %u", id);
    if (data && id < COUNT(sizes) && sizes[id]) write_hex("data", data, sizes[id]);
    put32(command, 16, 0);
    switch (id) {
    case SEV_INIT: case SEV_ES_INIT: is_legacy = 1; vm_type = id == SEV_INIT ? SEV_VM : ES_VM; return 0;
    case SEV_LAUNCH_UPDATE_DATA: write_contents("source", pointer(at64(data, 0)), at32(data, 8)); return 0;
    case SEV_LAUNCH_SECRET: write_contents("source", pointer(at64(data, 24)), at32(data, 32)); return 0;
    case SEV_GUEST_STATUS: put32(data, 8, 1); return 0; /* launching */
    case SEV_LAUNCH_MEASURE: /* asked once for the size of the answer */
        put32(data, 8, 48);
        if (measures++) return 0;
        put32(command, 16, INVALID_LENGTH);
        return -EIO;
    case SNP_LAUNCH_UPDATE: return snp_update(command, data);
    case SNP_LAUNCH_FINISH:
        if (!data[16]) return 0;
        write_contents("id_block", pointer(at64(data, 0)), 96);
        write_contents("id_auth", pointer(at64(data, 8)), PAGE);
    }
    return 0;
}

/* struct kvm_tdx_cmd: id, flags, data, error. */
static int tdx_command(void *command) {
    uint32_t id = at32(command, 0);
    char *data = pointer(at64(command, 8));
    uint64_t size, done;
    int ret = 0;
    fprintf(out, ", \"cmd\": %u, \"flags\": %u", id, at32(command, 4));
    switch (id) {
    case TDX_CAPABILITIES:
        fprintf(out, ", \"nent\": %u", at32(data, 2048));
        put64(data, 0, td_attributes);
        put64(data, 8, td_xfam);
        return cpuid_list(data + 2048, td_configurable, COUNT(td_configurable));
    case TDX_INIT_VM:
        td_entries = at32(data, 256) < COUNT(td_cpuid) ? at32(data, 256) : COUNT(td_cpuid);
        fprintf(out, ", \"nent\": %u", td_entries);
        write_contents("data", data, 264 + td_entries * sizeof *td_cpuid);
        memcpy(td_cpuid, data + 264, td_entries * sizeof *td_cpuid);
        return 0;
    case TDX_INIT_VCPU: /* the value is RCX, not an address */
        fprintf(out, ", \"rcx\": \"0x%llx\"", (unsigned long long)at64(command, 8));
        return 0;
    case TDX_INIT_MEM_REGION: /* source, GPA, pages; it says what is left */
        size = at64(data, 16) * PAGE;
        done = with_fault(size, &ret);
        write_hex("data", data, 24);
        write_contents("source", pointer(at64(data, 0)), done);
        put64(data, 0, at64(data, 0) + done);
        put64(data, 8, at64(data, 8) + done);
        put64(data, 16, (size - done) / PAGE);
        return ret;
    case TDX_GET_CPUID:
        fprintf(out, ", \"nent\": %u", at32(data, 0));
        return cpuid_list(data, td_cpuid, td_entries);
    }
    return 0;
}

static int capability(unsigned long number) {
    int has_type = vm_type != DEFAULT_VM && !is_legacy;
    switch (number) {
    case CAP_VM_TYPES: return 1 | 1 << SEV_VM | 1 << ES_VM | 1 << SNP_VM | 1 << TDX_VM;
    case CAP_USER_MEMORY2: case CAP_GUEST_MEMFD: return 1;
    case CAP_MEMORY_ATTRIBUTES: return has_type && vm_type >= SNP_VM ? 8 : 0;
    case CAP_READONLY_MEM: case CAP_SMM: /* not where the state of vCPUs is protected */
        return has_type && vm_type != SEV_VM ? 0 : NOT_MINE;
    }
    return NOT_MINE;
}

static int confidential(enum kind kind, unsigned request, unsigned long arg) {
    void *p = (void *)arg;
    if (kind == SEV) { /* SEV_ISSUE_CMD, PLATFORM_STATUS: API 1.55, working, SEV-ES */
        fprintf(out, ", \"cmd\": %u", at32(p, 0));
        if (at32(p, 0) == 1) memcpy(pointer(at64(p, 4)), "\1\67\2\0\1", 5);
        return 0;
    }
    switch (request) {
    case CHECK_EXTENSION: return capability(arg);
    case MEMORY_ENCRYPT_OP: return vm_type == TDX_VM ? tdx_command(p) : sev_command(p);
    case RUN: case ENC_REG_REGION: case ENC_UNREG_REGION: case SET_MEMORY_ATTRIBUTES: return 0;
    case CREATE_GUEST_MEMFD: return new_fd(GMEM, gmems++, (off_t)at64(p, 0));
    case GET_DEVICE_ATTR: case HAS_DEVICE_ATTR: /* group 1: the SEV_FEATURES of a VMSA */
        if (at32(p, 4) != 1) return NOT_MINE;
        if (request == GET_DEVICE_ATTR) put64(pointer(at64(p, 16)), 0, 0x3f);
        return 0;
    case ENABLE_CAP: return kind == VM && at32(p, 0) == CAP_MAX_VCPUS ? 0 : NOT_MINE;
    }
    return NOT_MINE;
}

/* --- recording ------------------------------------------------------------------------------- */

/* What the argument points to, before the call. */
static void write_argument(enum kind kind, unsigned request, unsigned long arg) {
    const char *p = (const char *)arg;
    size_t size = request == MEMORY_ENCRYPT_OP ? 24 : request >> 16 & 0x3fff;
    if (!(request >> 30)) fprintf(out, ", \"arg\": %ld", (long)arg);
    if (request >> 30 & 1 && size <= 1024 && kind != SEV) write_hex("in", p, size);
    if (request == SET_CPUID2) write_contents("cpuid", p + 8, at32(p, 0) * sizeof(struct cpuid));
    if (request == SET_MSRS) write_hex("msrs", p + 8, at32(p, 0) * sizeof(struct msr));
    if (request == SET_USER_MEMORY_REGION2 && at32(p, 4) & 4) {
        uint32_t memory = at32(p, 40);
        if (memory < MOST_FDS && fds[memory].kind == GMEM) fprintf(out, ", \"gmem\": %d", fds[memory].index);
    }
}

static void note_vcpu(int fd, int index) {
    struct vcpu *v = fd < MOST_FDS && index < MOST_VCPUS ? calloc(1, sizeof *v) : NULL;
    if (!v) return;
    fds[fd].kind = VCPU;
    fds[fd].index = index;
    v->fd = fd;
    initialise_xsave(v->xsave);
    vcpus[index] = v;
}

static int recorded(int fd, unsigned request, unsigned long arg) {
    enum kind kind = fds[fd].kind;
    int index = fds[fd].index;
    fprintf(out, "{\"n\": %ld, \"on\": \"%s\"", sequence++, kinds[kind]);
    if (kind == VCPU) fprintf(out, ", \"i\": %d", index);
    fprintf(out, ", \"req\": \"0x%x\"", request);
    write_argument(kind, request, arg);
    if (request == CREATE_VM) vm_type = (enum vm_type)arg;
    int ret = confidential(kind, request, arg), is_fake = ret != NOT_MINE || !is_real;
    if (ret == NOT_MINE) ret = is_real ? on_real(fd, request, arg) : plain(kind, index, request, arg);
    fprintf(out, ", \"ret\": %d%s}\n", ret, is_fake ? ", \"fake\": true" : "");
    if (request == CREATE_VM && ret >= 0 && ret < MOST_FDS) fds[ret].kind = VM;
    if (request == CREATE_VCPU && ret >= 0) note_vcpu(ret, (int)arg);
    if (request == MEMORY_ENCRYPT_OP && !ret) {
        uint32_t id = at32((void *)arg, 0);
        if ((vm_type == SNP_VM && id == SNP_LAUNCH_FINISH) || (vm_type == ES_VM && id == SEV_LAUNCH_UPDATE_VMSA))
            write_states();
    }
    if (request == RUN) { /* the guest would start now */
        fclose(contents);
        fclose(out);
        _exit(0);
    }
    return ret;
}

/* Finds the functions that are replaced, and opens the files, at the first of our calls. */
static void prepare(void) {
    const char *path = getenv("CVMPLAN_RECORDING");
    char beside[4096];
    if (out) return;
    real_ioctl = dlsym(RTLD_NEXT, "ioctl");
    real_openat = dlsym(RTLD_NEXT, "openat");
    real_close = dlsym(RTLD_NEXT, "close");
    if (getenv("CVMPLAN_RECORDER_FAULT")) fault = getenv("CVMPLAN_RECORDER_FAULT");
    snprintf(beside, sizeof beside, "%s.contents", path ? path : "");
    out = fopen(path ? path : "/dev/null", "we");
    contents = fopen(path ? beside : "/dev/null", "we");
    if (!out || !contents) { perror("CVMPLAN_RECORDING"); _exit(1); }
    setvbuf(out, NULL, _IOLBF, 1 << 16);
}

static int opened(int folder, const char *path, int flags, mode_t mode) {
    enum kind kind = !path ? OTHER : !strcmp(path, "/dev/kvm") ? KVM : !strcmp(path, "/dev/sev") ? SEV : OTHER;
    pthread_mutex_lock(&lock);
    prepare();
    const char *asked = getenv("CVMPLAN_RECORDER_KVM");
    int fd = -1;
    if (kind == OTHER || (kind == KVM && asked && !strcmp(asked, "real"))) fd = real_openat(folder, path, flags, mode);
    if (kind == KVM && fd >= 0 && fd < MOST_FDS) { fds[fd].kind = KVM; is_real = 1; }
    if (kind != OTHER) {
        if (fd < 0) fd = new_fd(kind, 0, 0);
        fprintf(out, "{\"n\": %ld, \"on\": \"%s\", \"req\": \"0x0\", \"call\": \"open\", \"ret\": 0%s}\n", sequence++,
                kinds[kind], is_real && kind == KVM ? "" : ", \"fake\": true");
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE                                                             \
    va_list more;                                                        \
    va_start(more, flags);                                               \
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0; \
    va_end(more)
int open(const char *path, int flags, ...) { MODE; return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE; return opened(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE; return opened(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE; return opened(folder, path, flags | O_LARGEFILE, mode); }
int __open_2(const char *path, int flags) { return opened(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return opened(AT_FDCWD, path, flags | O_LARGEFILE, 0); }

int close(int fd) {
    pthread_mutex_lock(&lock);
    prepare();
    if (fd >= 0 && fd < MOST_FDS) fds[fd].kind = OTHER;
    pthread_mutex_unlock(&lock);
    return real_close(fd);
}

int ioctl(int fd, unsigned long request, ...) {
    va_list more;
    va_start(more, request);
    unsigned long arg = va_arg(more, unsigned long);
    va_end(more);
    pthread_mutex_lock(&lock);
    prepare();
    enum kind kind = fd >= 0 && fd < MOST_FDS ? fds[fd].kind : OTHER;
    int ret = kind == OTHER || kind == STATS ? 0 : recorded(fd, (unsigned)request, arg);
    pthread_mutex_unlock(&lock);
    if (kind == OTHER) return real_ioctl(fd, request, arg);
    if (ret < 0) errno = -ret;
    return ret < 0 ? -1 : ret;
}
