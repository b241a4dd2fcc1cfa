/* Stands in for NVIDIA's libnvidia-ml.so.1 with the answers of one GPU, to try the calls over a real C interface. */
#include <string.h>

typedef struct { int number; } device;
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gpu, compute; } process;

static device only = {7};

int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, device **handle) { *handle = &only; return index == 0 ? 0 : 2; }
int nvmlDeviceGetHandleByUUID(const char *uuid, device **handle) {
  *handle = &only;
  return strcmp(uuid, "GPU-1") == 0 ? 0 : 6;
}

static int mine(device *handle) { return handle == &only && handle->number == 7 ? 0 : 2; }

int nvmlDeviceGetName(device *handle, char *name, unsigned int length) {
  strncpy(name, "NVIDIA GeForce RTX 3060", length);
  return mine(handle);
}
int nvmlSystemGetDriverVersion(char *version, unsigned int length) {
  strncpy(version, "535.104.05", length);
  return 0;
}
int nvmlDeviceGetMemoryInfo(device *handle, memory *told) {
  told->total = 12884901888ULL;
  told->free = 1;
  told->used = 2;
  return mine(handle);
}
int nvmlDeviceGetMaxClockInfo(device *handle, int which, unsigned int *mhz) { *mhz = 2110 + which - 1; return mine(handle); }
int nvmlDeviceGetClockInfo(device *handle, int which, unsigned int *mhz) {
  *mhz = which == 1 ? 1777 : which == 2 ? 7300 : 0;
  return mine(handle);
}
int nvmlDeviceGetTemperature(device *handle, int sensor, unsigned int *celsius) {
  *celsius = sensor == 0 ? 64 : 0;
  return mine(handle);
}
int nvmlDeviceGetPowerUsage(device *handle, unsigned int *milliwatts) { *milliwatts = 143250; return mine(handle); }
int nvmlDeviceGetTotalEnergyConsumption(device *handle, unsigned long long *millijoules) {
  *millijoules = 9876543210123ULL;
  return mine(handle);
}
int nvmlDeviceGetCurrentClocksThrottleReasons(device *handle, unsigned long long *mask) { *mask = 0x24; return mine(handle); }
int nvmlDeviceGetComputeRunningProcesses_v3(device *handle, unsigned int *count, process *told) {
  if (*count < 2) return 7;
  *count = 2;
  told[0].pid = 1;
  told[1].pid = 2;
  return mine(handle);
}
