/* NVIDIA's driver as far as its library (NVML) shows it: a real libnvidia-ml.so.1 without a GPU.
 *
 * What the GPUs are like stands in the file FAKE_NVML_STATE, a line each: "gpus 2",
 * "0.uuid GPU-1", "0.temperature 41", "1.lost 1", "hang 1". It is read anew at each call, so a test
 * changes it as it goes. A figure that is not there is one that this GPU does not know. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, SMALL = 7, NOT_LOADED = 9, LOST = 15 };

struct memory { unsigned long long total, free, used; };
struct pci {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char bus_id[32];
};
struct process { unsigned pid; unsigned long long bytes; unsigned gpu, compute; };

static int text(const char *key, char *out, size_t size) {
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256];
    int found = 0;
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        char *value = strchr(line, ' ');
        if (!value) continue;
        *value++ = 0;
        value[strcspn(value, "\n")] = 0;
        if (!strcmp(line, key)) { snprintf(out, size, "%s", value); found = 1; }
    }
    fclose(file);
    return found;
}

static int number(const char *key, unsigned long long *out) {
    char value[64];
    if (!text(key, value, sizeof value)) return 0;
    *out = strtoull(value, NULL, 10);
    return 1;
}

static unsigned long long or_zero(const char *key) {
    unsigned long long value = 0;
    number(key, &value);
    return value;
}

/* A handle is the GPU's index, plus one so that none is NULL. */
static const char *named(void *handle, const char *field) {
    static _Thread_local char key[64];
    snprintf(key, sizeof key, "%d.%s", (int)(long)handle - 1, field);
    return key;
}

static int say(void *handle, const char *field, char *out, unsigned size) {
    return text(named(handle, field), out, size) ? OK : UNSUPPORTED;
}

static int count(void *handle, const char *field, unsigned *out) {
    unsigned long long value;
    if (!number(named(handle, field), &value)) return UNSUPPORTED;
    *out = (unsigned)value;
    return OK;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (or_zero("crash")) abort();
    while (or_zero("hang")) usleep(50000);
    return or_zero("unloaded") ? NOT_LOADED : OK;
}
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) {
    switch (code) {
    case NOT_LOADED: return "Driver Not Loaded";
    case LOST: return "GPU is lost";
    default: return "Not Supported";
    }
}
int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    return text("driver", out, size) ? OK : UNSUPPORTED;
}
int nvmlSystemGetCudaDriverVersion_v2(int *out) { *out = (int)or_zero("cuda"); return OK; }
int nvmlDeviceGetCount_v2(unsigned *out) { *out = (unsigned)or_zero("gpus"); return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) {
    if (index >= or_zero("gpus")) return INVALID;
    *out = (void *)(long)(index + 1);
    return or_zero(named(*out, "lost")) ? LOST : OK;
}
int nvmlDeviceGetUUID(void *h, char *out, unsigned size) { return say(h, "uuid", out, size); }
int nvmlDeviceGetName(void *h, char *out, unsigned size) { return say(h, "name", out, size); }
int nvmlDeviceGetSerial(void *h, char *out, unsigned size) { return say(h, "serial", out, size); }
int nvmlDeviceGetPciInfo_v3(void *h, struct pci *out) {
    memset(out, 0, sizeof *out);
    return say(h, "pci", out->bus_id, sizeof out->bus_id);
}
int nvmlDeviceGetMemoryInfo(void *h, struct memory *out) {
    out->total = or_zero(named(h, "memory"));
    out->used = or_zero(named(h, "used"));
    out->free = out->total - out->used;
    return OK;
}
int nvmlDeviceGetTemperature(void *h, int sensor, unsigned *out) {
    return sensor ? INVALID : count(h, "temperature", out);
}
int nvmlDeviceGetTemperatureThreshold(void *h, int which, unsigned *out) {
    return which == 1 ? count(h, "slowdown", out) : UNSUPPORTED;
}
int nvmlDeviceGetCurrentClocksEventReasons(void *h, unsigned long long *out) {
    *out = or_zero(named(h, "slowed"));
    return OK;
}
int nvmlDeviceGetTotalEccErrors(void *h, int kind, int since, unsigned long long *out) {
    char field[32];
    snprintf(field, sizeof field, "ecc.%s.%s", kind ? "uncorrected" : "corrected",
             since ? "ever" : "now");
    return number(named(h, field), out) ? OK : UNSUPPORTED;
}
int nvmlDeviceGetRemappedRows(void *h, unsigned *corrected, unsigned *uncorrected,
                              unsigned *pending, unsigned *failed) {
    if (count(h, "remapped", uncorrected)) return UNSUPPORTED;
    *corrected = 0;
    *pending = (unsigned)or_zero(named(h, "remap_pending"));
    *failed = (unsigned)or_zero(named(h, "remap_failed"));
    return OK;
}
int nvmlDeviceGetRetiredPages(void *h, int cause, unsigned *size, unsigned long long *pages) {
    unsigned long long there;
    if (!number(named(h, cause ? "pages.double" : "pages.single"), &there)) return UNSUPPORTED;
    if (!pages || *size < there) { *size = (unsigned)there; return there ? SMALL : OK; }
    for (unsigned i = 0; i < there; i++) pages[i] = 0x1000ull * i;
    *size = (unsigned)there;
    return OK;
}
int nvmlDeviceGetRetiredPagesPendingStatus(void *h, int *out) {
    *out = (int)or_zero(named(h, "pages_pending"));
    return OK;
}
int nvmlDeviceGetNvLinkState(void *h, unsigned link, unsigned *out) {
    char field[32];
    snprintf(field, sizeof field, "link%u", link);
    return count(h, field, out);
}
int nvmlDeviceGetNvLinkErrorCounter(void *h, unsigned link, int counter, unsigned long long *out) {
    char field[48];
    snprintf(field, sizeof field, "link%u.error%d", link, counter);
    *out = or_zero(named(h, field));
    return OK;
}
/* "0.processes 101:1048576,102:2097152" */
int nvmlDeviceGetComputeRunningProcesses_v3(void *h, unsigned *size, struct process *out) {
    char all[256] = "";
    unsigned there = 0;
    say(h, "processes", all, sizeof all);
    for (char *one = strtok(all, ","); one; one = strtok(NULL, ","), there++) {
        if (!out || there >= *size) continue;
        memset(&out[there], 0, sizeof *out);
        sscanf(one, "%u:%llu", &out[there].pid, &out[there].bytes);
    }
    if (there && (!out || there > *size)) { *size = there; return SMALL; }
    *size = there;
    return OK;
}
