# SPDX-License-Identifier: Apache-2.0
"""As much of PyTorch as gpu_job.py uses, on the simulated driver: to try the laboratory for GPU machines where there is no GPU."""
import ctypes

__version__ = "stand-in"
float16 = uint8 = None
PROCESSORS = 142


class OutOfMemoryError(RuntimeError):
    pass


class Driver:
    cuda = context = product = None
    reserved_bytes = 0


def driver():
    if Driver.cuda is None:
        Driver.cuda, Driver.context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
        check(Driver.cuda.cuInit(0))
        check(Driver.cuda.cuDevicePrimaryCtxRetain(ctypes.byref(Driver.context), 0))
        check(Driver.cuda.cuCtxSetCurrent(Driver.context))
    return Driver.cuda


def check(code):
    if code == 2:
        raise OutOfMemoryError
    assert code == 0, code


class Tensor:
    def __init__(self, size):
        self.pointer = ctypes.c_uint64()
        check(driver().cuMemAlloc_v2(ctypes.byref(self.pointer), ctypes.c_size_t(size)))
        Driver.reserved_bytes += size

    def __del__(self):
        if self.pointer.value:
            driver().cuMemFree_v2(self.pointer)


def empty(size, **_):
    return Tensor(size)


def randn(*_, **__):
    return None


def empty_like(_):
    return None


def matmul(_, __, out=None):
    if Driver.product is None:
        module, Driver.product = ctypes.c_void_p(), ctypes.c_void_p()
        check(driver().cuModuleLoadData(ctypes.byref(module), b"any"))
        check(driver().cuModuleGetFunction(ctypes.byref(Driver.product), module, b"spin_1ms"))
    check(driver().cuLaunchKernel(Driver.product, PROCESSORS * 16, 1, 1, 128, 1, 1, 0, None, None, None))
    return out


class cuda:  # pylint: disable=invalid-name
    class Event:
        def __init__(self):
            self.event = ctypes.c_void_p()
            check(driver().cuEventCreate(ctypes.byref(self.event), 0))

        def record(self):
            check(driver().cuEventRecord(self.event, None))

        def synchronize(self):
            check(driver().cuEventSynchronize(self.event))

        def __del__(self):
            driver().cuEventDestroy_v2(self.event)

    class Properties:
        multi_processor_count = PROCESSORS

    @staticmethod
    def mem_get_info():
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        check(driver().cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)))
        return free.value, total.value

    @staticmethod
    def memory_reserved():
        return Driver.reserved_bytes

    @staticmethod
    def empty_cache():
        pass

    @staticmethod
    def synchronize():
        check(driver().cuCtxSynchronize())

    @staticmethod
    def get_device_name():
        return "stand-in"

    @staticmethod
    def get_device_properties(_):
        return cuda.Properties
