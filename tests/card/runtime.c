// The CUDA runtime and driver that torch calls, without a card: memory is the host's, and no kernel is launched.
//
// torch's own allocator, streams, events and random generators work on it as on a card. Work is done at once, in
// the order of its launch; that one stream waits for another is for torch's sanitizer to check. CARD_COUNT cards
// have CARD_BYTES of memory each, both read whenever they are asked for.
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DONE(signature) cudaError_t signature { return cudaSuccess; }
#define NO_KERNEL(signature) cudaError_t signature { return failed(cudaErrorNotSupported); }

static _Thread_local int current;
static _Thread_local cudaError_t last;

static cudaError_t failed(cudaError_t error) {
  last = error;
  return error;
}

static size_t setting(const char *name, size_t usual) {
  const char *text = getenv(name);
  return text ? strtoull(text, NULL, 10) : usual;
}

static size_t card_bytes(void) { return setting("CARD_BYTES", (size_t)4 << 30); }
static int cards(void) { return (int)setting("CARD_COUNT", 1); }

// Memory.

enum { BLOCKS = 1 << 14, CARDS = 16, PAGE = 512, JUNK = 0xCD };
static struct { char *start; size_t size; int card; int pinned; } blocks[BLOCKS];
static int most_blocks;
static size_t used[CARDS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int block_of(const void *place) {
  for (int i = 0; i < most_blocks; i++)
    if (blocks[i].start && (char *)place >= blocks[i].start && (char *)place < blocks[i].start + blocks[i].size)
      return i;
  return -1;
}

static cudaError_t take(void **place, size_t size, int pinned) {
  *place = NULL;
  if (!size) return cudaSuccess;
  pthread_mutex_lock(&lock);
  int i = 0;
  while (i < BLOCKS && blocks[i].start) i++;
  int fits = i < BLOCKS && (pinned || used[current] + size <= card_bytes());
  if (fits) {
    *place = aligned_alloc(PAGE, (size + PAGE - 1) / PAGE * PAGE);
    memset(*place, JUNK, size);  // whoever reads what was not written sees that
    blocks[i].start = *place, blocks[i].size = size, blocks[i].card = current, blocks[i].pinned = pinned;
    if (i >= most_blocks) most_blocks = i + 1;
    if (!pinned) used[current] += size;
  }
  pthread_mutex_unlock(&lock);
  return fits ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}

static cudaError_t give_back(void *place) {
  pthread_mutex_lock(&lock);
  int i = place ? block_of(place) : -1;
  if (i >= 0) {
    if (!blocks[i].pinned) used[blocks[i].card] -= blocks[i].size;
    free(blocks[i].start);
    blocks[i].start = NULL;
  }
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void **place, size_t size) { return take(place, size, 0); }
cudaError_t cudaFree(void *place) { return give_back(place); }
cudaError_t cudaHostAlloc(void **place, size_t size, unsigned flags) { return take(place, size, 1); }
cudaError_t cudaFreeHost(void *place) { return give_back(place); }
DONE(cudaHostRegister(void *place, size_t size, unsigned flags))
DONE(cudaHostUnregister(void *place))

cudaError_t cudaMemGetInfo(size_t *left, size_t *total) {
  *total = card_bytes();
  *left = *total > used[current] ? *total - used[current] : 0;
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *place) {
  pthread_mutex_lock(&lock);
  int i = block_of(place);
  memset(found, 0, sizeof *found);
  found->device = -1;
  if (i >= 0) {
    found->type = blocks[i].pinned ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
    found->device = blocks[i].card;
    found->devicePointer = found->hostPointer = (void *)place;
  }
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
  memmove(to, from, size);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream) {
  memmove(to, from, size);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *place, int value, size_t size, cudaStream_t stream) {
  memset(place, value, size);
  return cudaSuccess;
}

// Streams, and events, which are the time at which they were recorded.

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
  static atomic_long made = 4096;
  *stream = (cudaStream_t)(made += 16);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                     unsigned long long *id, cudaGraph_t *graph, const cudaGraphNode_t **nodes,
                                     const cudaGraphEdgeData **edges, size_t *number) {
  return cudaStreamIsCapturing(stream, status);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
  *event = calloc(1, sizeof(struct timespec));
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  free(event);
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  clock_gettime(CLOCK_MONOTONIC, (struct timespec *)event);
  return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  return cudaEventRecord(event, stream);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  struct timespec *a = (struct timespec *)begin, *b = (struct timespec *)end;
  *milliseconds = (b->tv_sec - a->tv_sec) * 1e3f + (b->tv_nsec - a->tv_nsec) * 1e-6f;
  return cudaSuccess;
}

DONE(cudaStreamDestroy(cudaStream_t stream))
DONE(cudaStreamSynchronize(cudaStream_t stream))
DONE(cudaStreamQuery(cudaStream_t stream))
DONE(cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags))
DONE(cudaEventQuery(cudaEvent_t event))
DONE(cudaEventSynchronize(cudaEvent_t event))
DONE(cudaDeviceSynchronize(void))
DONE(cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode))

// Cards.

cudaError_t cudaGetDeviceCount(int *number) {
  *number = cards();
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int *card) {
  *card = current;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int card) {
  if (card < 0 || card >= cards()) return failed(cudaErrorInvalidDevice);
  current = card;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *of, int card) {
  memset(of, 0, sizeof *of);
  strcpy(of->name, "NVIDIA Stand-in");
  of->totalGlobalMem = card_bytes();
  of->major = 9;
  of->multiProcessorCount = 132;
  of->warpSize = 32;
  of->maxThreadsPerBlock = 1024;
  of->maxThreadsPerMultiProcessor = 2048;
  of->pciBusID = of->uuid.bytes[0] = card;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int card) {
  *value = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int card, int other) {
  *can = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  *least = 0, *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) { return cudaDriverGetVersion(version); }

cudaError_t cudaGetLastError(void) {
  cudaError_t error = last;
  last = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError(void) { return last; }

const char *cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorNotSupported: return "a kernel was launched, and there is no card";
    default: return "unknown error";
  }
}

const char *cudaGetErrorName(cudaError_t error) { return "cudaError"; }

NO_KERNEL(cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **given, size_t shared, cudaStream_t stream))
NO_KERNEL(cudaLaunchKernelExC(const cudaLaunchConfig_t *how, const void *kernel, void **given))
NO_KERNEL(__cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **given, size_t shared, cudaStream_t stream))

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
  *kernel = (cudaKernel_t)function;
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *of, const void *kernel) {
  memset(of, 0, sizeof *of);
  of->maxThreadsPerBlock = 1024;
  of->binaryVersion = of->ptxVersion = 90;
  return cudaSuccess;
}

// The driver: each function is looked up by its name.

static int nothing(void) { return 0; }

CUresult cuDevicePrimaryCtxGetState(CUdevice card, unsigned *flags, int *active) {
  *flags = 0, *active = 1;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *card, int number) {
  *card = number;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *context) {
  *context = (CUcontext)16;
  return CUDA_SUCCESS;
}

// What Triton's own module links to. Its kernels are interpreted, so none of it is called but for attributes.

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice card) {
  *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 9 : 0;
  return CUDA_SUCCESS;
}

#define NOT_SUPPORTED(name)            \
  CUresult no_##name(void) __asm__(#name); \
  CUresult no_##name(void) { return CUDA_ERROR_NOT_SUPPORTED; }
NOT_SUPPORTED(cuCtxGetDevice)
NOT_SUPPORTED(cuCtxGetLimit)
NOT_SUPPORTED(cuCtxSetCurrent)
NOT_SUPPORTED(cuCtxSetLimit)
NOT_SUPPORTED(cuDevicePrimaryCtxRetain)
NOT_SUPPORTED(cuDriverGetVersion)
NOT_SUPPORTED(cuFuncGetAttribute)
NOT_SUPPORTED(cuFuncSetAttribute)
NOT_SUPPORTED(cuFuncSetCacheConfig)
NOT_SUPPORTED(cuGetErrorString)
NOT_SUPPORTED(cuModuleGetFunction)
NOT_SUPPORTED(cuModuleLoadData)
NOT_SUPPORTED(cuModuleUnload)
NOT_SUPPORTED(cuPointerGetAttribute)
NOT_SUPPORTED(cuStreamIsCapturing)

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version,
                                             unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result) {
  void *own = dlsym(RTLD_DEFAULT, name);
  *function = own ? own : (void *)nothing;
  if (result) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
