/* A CUDA driver without a GPU: what numbaconv/cuda/driver.py calls, on host memory, in order, at once.

Every call is written to a log. Kernels go to a function that the test sets. Environment:
STUB_VERSION (13000), STUB_DEVICES (1), STUB_CAPABILITY (80), STUB_MEMORY (bytes of a device, 1 GiB), STUB_INIT (status).
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int status;
typedef uint64_t handle;
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700 };

static char log_text[1 << 20];
static size_t log_size;

static void note(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    log_size += vsnprintf(log_text + log_size, sizeof log_text - log_size, format, arguments);
    va_end(arguments);
    if (log_size + 512 > sizeof log_text) log_size = 0;
}

static int64_t setting(const char *name, int64_t otherwise) {
    const char *text = getenv(name);
    return text ? atoll(text) : otherwise;
}

/* --- for the test ----------------------------------------------------------------------------------------- */

typedef void (*launcher)(const char *name, const uint32_t *grid, uint32_t threads, uint32_t shared, handle stream,
                         void **parameters);
static launcher launch;

void stub_set_launcher(launcher function) { launch = function; }
const char *stub_log(void) { return log_text; }
void stub_clear_log(void) { log_size = 0; log_text[0] = 0; }

/* --- devices and contexts: context 0x1000 + device -------------------------------------------------------- */

static __thread handle current, stack[16];
static __thread int depth;

status cuInit(unsigned flags) { return setting("STUB_INIT", SUCCESS); }
status cuDriverGetVersion(int *version) { *version = setting("STUB_VERSION", 13000); return SUCCESS; }
status cuDeviceGetCount(int *count) { *count = setting("STUB_DEVICES", 1); return SUCCESS; }
status cuDeviceGet(int *device, int number) { *device = number; return SUCCESS; }
status cuDeviceGetAttribute(int *value, int attribute, int device) {
    int capability = setting("STUB_CAPABILITY", 80);
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : attribute == 16 ? 108 : -1;
    return SUCCESS;
}
status cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "stub %d", device); return SUCCESS; }
status cuDeviceGetUuid_v2(char *uuid, int device) { memset(uuid, device + 1, 16); return SUCCESS; }
status cuDevicePrimaryCtxRetain(handle *context, int device) {
    *context = 0x1000 + device;
    note("retain %d\n", device);
    return SUCCESS;
}
status cuDevicePrimaryCtxRelease_v2(int device) { return SUCCESS; }
status cuCtxGetCurrent(handle *context) { *context = current; return SUCCESS; }
status cuCtxSetCurrent(handle context) { current = context; note("context %llx\n", (long long)context); return SUCCESS; }
status cuCtxPushCurrent_v2(handle context) { stack[depth++] = current; return cuCtxSetCurrent(context); }
status cuCtxPopCurrent_v2(handle *context) {
    *context = current;
    return cuCtxSetCurrent(depth ? stack[--depth] : 0);
}
status cuCtxGetDevice(int *device) { *device = current - 0x1000; return current ? SUCCESS : INVALID_CONTEXT; }
status cuCtxSynchronize(void) { note("synchronize\n"); return SUCCESS; }

/* --- memory: 256 bytes in front of every block hold its size and device ----------------------------------- */

static int64_t in_use[16];

void stub_forget_memory(void) { memset(in_use, 0, sizeof in_use); }

status cuMemAlloc_v2(handle *address, size_t size) {
    if (!current) return INVALID_CONTEXT;
    int device = current - 0x1000;
    if (in_use[device] + (int64_t)size > setting("STUB_MEMORY", 1 << 30)) return OUT_OF_MEMORY;
    int64_t *block = aligned_alloc(256, (size + 511) / 256 * 256);
    block[0] = size, block[1] = device, block[2] = 0x5354554231;
    in_use[device] += size;
    memset((char *)block + 256, 0xFF, size);
    *address = (handle)block + 256;
    note("allocate %zu\n", size);
    return SUCCESS;
}
status cuMemFree_v2(handle address) {
    int64_t *block = (int64_t *)(address - 256);
    if (block[2] != 0x5354554231) return INVALID_VALUE;
    in_use[block[1]] -= block[0], block[2] = 0;
    note("free %lld\n", (long long)block[0]);
    free(block);
    return SUCCESS;
}
status cuMemGetInfo_v2(size_t *free, size_t *total) {
    *total = setting("STUB_MEMORY", 1 << 30);
    *free = *total - in_use[current - 0x1000];
    return SUCCESS;
}
status cuMemHostAlloc(void **pointer, size_t size, unsigned flags) {
    *pointer = malloc(size);
    note("pin %zu flags %u\n", size, flags);
    return SUCCESS;
}
status cuMemFreeHost(void *pointer) { free(pointer); note("unpin\n"); return SUCCESS; }
status cuPointerGetAttribute(void *value, int attribute, handle address) {
    if (attribute != 9) return INVALID_VALUE;
    *(int *)value = setting("STUB_POINTER_DEVICE", 0);
    return SUCCESS;
}

static status copied(const char *kind, handle to, handle from, size_t size, handle stream) {
    if (!current) return INVALID_CONTEXT;
    memmove((void *)to, (void *)from, size);
    note("%s %zu stream %llx\n", kind, size, (long long)stream);
    return SUCCESS;
}
status cuMemcpyHtoDAsync_v2(handle to, const void *from, size_t size, handle stream) {
    return copied("upload", to, (handle)from, size, stream);
}
status cuMemcpyDtoHAsync_v2(void *to, handle from, size_t size, handle stream) {
    return copied("download", (handle)to, from, size, stream);
}
status cuMemcpyAsync(handle to, handle from, size_t size, handle stream) { return copied("copy", to, from, size, stream); }
status cuMemsetD8Async(handle to, unsigned char value, size_t size, handle stream) {
    memset((void *)to, value, size);
    note("fill %zu with %d stream %llx\n", size, value, (long long)stream);
    return SUCCESS;
}

/* --- streams, events, graphs: numbers --------------------------------------------------------------------- */

static handle next = 0x100;

status cuStreamCreate(handle *stream, unsigned flags) { *stream = next++; note("stream flags %u\n", flags); return SUCCESS; }
status cuStreamSynchronize(handle stream) { note("synchronize %llx\n", (long long)stream); return SUCCESS; }
status cuStreamWaitEvent(handle stream, handle event, unsigned flags) {
    note("wait %llx for %llx\n", (long long)stream, (long long)event);
    return SUCCESS;
}
status cuEventCreate(handle *event, unsigned flags) { *event = next++; note("event flags %u\n", flags); return SUCCESS; }
status cuEventDestroy_v2(handle event) { note("no event %llx\n", (long long)event); return SUCCESS; }
status cuEventRecord(handle event, handle stream) {
    note("record %llx on %llx\n", (long long)event, (long long)stream);
    return SUCCESS;
}
status cuEventQuery(handle event) { return setting("STUB_QUERY", SUCCESS); }
status cuEventSynchronize(handle event) { note("synchronize event %llx\n", (long long)event); return SUCCESS; }
status cuStreamBeginCapture_v2(handle stream, int mode) {
    note("capture %llx mode %d\n", (long long)stream, mode);
    return SUCCESS;
}
status cuStreamEndCapture(handle stream, handle *graph) { *graph = next++; note("captured\n"); return SUCCESS; }
status cuGraphInstantiateWithFlags(handle *executable, handle graph, unsigned long long flags) {
    *executable = next++;
    note("instantiate flags %llu\n", flags);
    return SUCCESS;
}
status cuGraphDestroy(handle graph) { note("no graph\n"); return SUCCESS; }
status cuGraphExecDestroy(handle graph) { note("no executable\n"); return SUCCESS; }
status cuGraphLaunch(handle graph, handle stream) { note("replay on %llx\n", (long long)stream); return SUCCESS; }

/* --- kernels: a module is a copy of the first bytes of its image, a function a copy of its name ------------ */

status cuModuleLoadData(handle *module, const void *image) {
    if (!current || memcmp(image, "\177ELF", 4)) return INVALID_VALUE;
    *module = next++;
    note("load\n");
    return SUCCESS;
}
status cuModuleGetFunction(handle *function, handle module, const char *name) {
    *function = (handle)strdup(name);
    note("function %s\n", name);
    return SUCCESS;
}
status cuFuncGetAttribute(int *value, int attribute, handle function) {
    *value = 8192;
    return attribute == 1 ? SUCCESS : INVALID_VALUE;
}
status cuFuncSetAttribute(handle function, int attribute, int value) {
    note("attribute %d = %d\n", attribute, value);
    return SUCCESS;
}
status cuLaunchKernel(handle function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                      unsigned threads_z, unsigned shared, handle stream, void **parameters, void **extra) {
    if (!current || extra || threads_y != 1 || threads_z != 1) return INVALID_VALUE;
    uint32_t grid[3] = {x, y, z};
    note("launch %s grid %u %u %u threads %u shared %u stream %llx\n", (const char *)function, x, y, z, threads, shared,
         (long long)stream);
    if (setting("STUB_BREAK", 0)) return ILLEGAL_ADDRESS;
    launch((const char *)function, grid, threads, shared, stream, parameters);
    return SUCCESS;
}
status cuGetErrorName(int error, const char **name) { *name = "STUB"; return SUCCESS; }
status cuGetErrorString(int error, const char **text) { *text = "stub"; return SUCCESS; }

status cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *found) {
    char longer[128];
    for (int suffix = 3; suffix >= 1; suffix--) {
        snprintf(longer, sizeof longer, suffix == 1 ? "%s" : "%s_v%d", name, suffix);
        if (!strcmp(name, "cuGraphInstantiate")) snprintf(longer, sizeof longer, "cuGraphInstantiateWithFlags");
        if ((*function = dlsym(RTLD_DEFAULT, longer))) {
            if (found) *found = 0;
            return SUCCESS;
        }
    }
    if (found) *found = 1;
    return NOT_FOUND;
}
