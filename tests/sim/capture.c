// SPDX-License-Identifier: Apache-2.0
// Stream capture, not simulated yet: no stream is ever captured.
#include "module.h"
bool sim_capturing(const struct CUstream_st *stream) { return stream->capture != NULL; }
CUresult sim_capture_forbid(struct CUctx_st *context) { (void)context; return CUDA_SUCCESS; }
CUresult sim_capture_forbid_sync(struct CUstream_st *stream) { (void)stream; return CUDA_SUCCESS; }
CUresult sim_capture_forbid_legacy(struct CUstream_st *stream) { (void)stream; return CUDA_SUCCESS; }
void sim_capture_invalidate(struct sim_graph_capture *capture) { (void)capture; }
void sim_capture_invalidate_context(struct CUctx_st *context) { (void)context; }
void sim_capture_forget(struct CUstream_st *stream) { (void)stream; }
CUresult sim_capture_record(struct CUstream_st *stream, struct CUevent_st *event, bool external) { (void)stream, (void)event, (void)external; return CUDA_ERROR_NOT_SUPPORTED; }
CUresult sim_capture_copy(struct CUstream_st *stream, const CUDA_MEMCPY3D *copy) { (void)stream, (void)copy; return CUDA_ERROR_NOT_SUPPORTED; }
CUresult sim_capture_fill(struct CUstream_st *stream, const CUDA_MEMSET_NODE_PARAMS *fill) { (void)stream, (void)fill; return CUDA_ERROR_NOT_SUPPORTED; }
CUresult sim_capture_kernel(struct CUstream_st *stream, const struct sim_launch *launch) { (void)stream, (void)launch; return CUDA_ERROR_NOT_SUPPORTED; }
CUresult sim_capture_wait(struct CUstream_st *stream, struct CUevent_st *event, bool external) { (void)stream, (void)event, (void)external; return CUDA_ERROR_NOT_SUPPORTED; }
// temporary
void sim_pool_trim_idle(int ordinal) { (void)ordinal; }
uint64_t sim_pool_give_back(int ordinal) { (void)ordinal; return 0; }
void sim_pool_drop_device(int ordinal) { (void)ordinal; }
CUresult sim_pool_free_now(CUdeviceptr address) { (void)address; return CUDA_ERROR_INVALID_VALUE; }
void sim_array_drop_context(struct CUctx_st *context) { (void)context; }
bool sim_vmm_accessible(struct sim_range *range, uint64_t address, uint64_t bytes) { (void)range, (void)address, (void)bytes; return false; }
CUresult sim_capture_host(struct CUstream_st *stream, const struct sim_host_task *task) { (void)stream, (void)task; return CUDA_ERROR_NOT_SUPPORTED; }
