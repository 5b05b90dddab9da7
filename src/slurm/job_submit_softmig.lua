-- SPDX-License-Identifier: Apache-2.0
-- Slurm's job_submit plugin of SoftMig: turns gpu:TYPE.D into shards, or refuses with one sentence. Owns: reading a job's
-- request and writing it back. Must never: do I/O while a job is submitted, accept a job after an error of its own
-- (slurmctld lets the job pass when Lua raises one, so everything runs under pcall).
--
-- Alone: install it as job_submit.lua beside slurm.conf. In a site's own job_submit.lua:
--     dofile("/etc/slurm/job_submit_softmig.lua")
--     function slurm_job_submit(job_desc, part_list, submit_uid)
--         local rc = softmig.job_submit(job_desc, part_list, submit_uid)
--         if rc ~= slurm.SUCCESS then return rc end
--         ... the site's own rules
--     end
-- softmig.job_modify is the same for slurm_job_modify.
-- luacheck: globals slurm softmig slurm_job_submit slurm_job_modify
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"

local function load_slices()
	local tried
	for _, folder in ipairs({ here, "/usr/share/softmig/slurm/" }) do
		local chunk, problem = loadfile(folder .. "softmig_slices.lua")
		if chunk then
			return chunk()
		end
		tried = tried or problem
	end
	error(tried)
end
local slices = load_slices()
local offered, problem = slices.load_table(slices.table_paths(here, os.getenv("SLURM_CONF")))
if problem then
	slurm.log_error("softmig: %s: requests for slices are refused", problem)
end

local FIELDS = { node = "tres_per_node", job = "tres_per_job", task = "tres_per_task", socket = "tres_per_socket" }
-- sbatch exports its --gpus options to the job, where an inner srun would ask for the slice by its old name (newer Slurm that of
-- --gpus-per-task in SLURM_TRES_PER_TASK).
local EXPORTED = { "SLURM_GPUS", "SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_TASK", "SLURM_GPUS_PER_SOCKET" }

-- Slurm's "not given": NO_VAL, or NO_VAL16 in the 16-bit fields.
local function number(value, unset)
	value = tonumber(value)
	if value and value < unset then
		return value
	end
	return nil
end

local function text(value)
	if value and value ~= "" then
		return value
	end
	return nil
end

-- Newer Slurm binds the GPUs of --gpus-per-task, "gres/gpu:per_task:1", which a job with shards does not have.
local function binds_gpus(bind)
	return text(bind) ~= nil and bind:match("gres[:/]gpu") ~= nil
end

local function refuse(sentence)
	slurm.log_user("softmig: %s", sentence)
	slurm.log_info("softmig: %s", sentence) -- scontrol update shows no log_user
	return slurm.ERROR
end

-- slurmd runs no prolog, so that there is no slice, when a requeued job starts on its node while the credential of its last run is
-- still known there. Slurm sees to that by the start time that it gives the job, which plugins are not shown: no change may undo it.
-- Returns the refusal.
local function after_requeue(job_desc, job, sliced)
	if (number(job.restart_cnt, 4294967294) or 0) == 0 or not sliced then
		return nil
	end
	if not slices.has_shards(job.tres_per_node) then -- its start time may have been changed before
		return "a requeued job cannot become one with a slice; cancel it and submit it again"
	end
	if (tonumber(job_desc.begin_time) or 0) > 0 then
		return "when a requeued job with a slice starts is set by Slurm; hold it to put it off"
	end
	return nil
end

-- job: the job as it is now, when it is being changed (what the change leaves alone still counts).
local function apply(job_desc, job)
	local ask, changed = {}, false
	for field, name in pairs(FIELDS) do
		ask[field] = job_desc[name]
		if ask[field] then
			changed = true
		elseif job then
			ask[field] = text(job[name])
		end
	end
	if not changed and not job then
		return slurm.SUCCESS
	end
	ask.nodes = number(job_desc.min_nodes, 4294967294) or (job and number(job.min_nodes, 4294967294))
	ask.tasks = number(job_desc.num_tasks, 4294967294)
	ask.tasks_per_node = number(job_desc.ntasks_per_node, 65534)
	ask.sockets = number(job_desc.sockets_per_node, 65534)
	ask.cpus_per_gpu = text(job_desc.cpus_per_tres)
	ask.mem_per_gpu = text(job_desc.mem_per_tres)
	ask.tasks_per_gpu = number(job_desc.ntasks_per_tres, 65534)
	local sliced, change = false, nil
	if changed then
		sliced, change = slices.judge(ask, offered, problem)
	end
	if sliced == nil then
		return refuse(change)
	end
	local refusal = job and after_requeue(job_desc, job, sliced or slices.has_shards(ask.node))
	if refusal then
		return refuse(refusal)
	elseif not sliced then
		return slurm.SUCCESS
	end
	for field, rest in pairs(change.leave) do
		job_desc[FIELDS[field]] = rest -- "" where nothing is left: nil is refused by Slurm
	end
	if binds_gpus(job_desc.tres_bind) then
		job_desc.tres_bind = ""
	end
	job_desc.tres_per_node = change.node
	if change.one_node and not job then
		job_desc.min_nodes, job_desc.max_nodes = 1, 1
	end
	if not job and job_desc.script then
		for _, name in ipairs(EXPORTED) do
			if text(job_desc.environment[name]) then
				job_desc.environment[name] = ""
			end
		end
		local per_task = text(job_desc.environment.SLURM_TRES_PER_TASK)
		if per_task then
			job_desc.environment.SLURM_TRES_PER_TASK = slices.without_gpus(per_task)
		end
		if binds_gpus(job_desc.environment.SLURM_TRES_BIND) then
			job_desc.environment.SLURM_TRES_BIND = ""
		end
	end
	return slurm.SUCCESS
end

local function guarded(...)
	local fine, rc = pcall(apply, ...)
	if fine then
		return rc
	end
	slurm.log_error("softmig: job_submit failed: %s", tostring(rc))
	pcall(slurm.log_user, "softmig: this request could not be checked and was refused; please tell your administrators")
	return slurm.ERROR
end

softmig = { slices = slices }

function softmig.job_submit(job_desc, _, _)
	return guarded(job_desc)
end

function softmig.job_modify(job_desc, job_rec, _, _)
	return guarded(job_desc, job_rec)
end

slurm_job_submit = softmig.job_submit
slurm_job_modify = softmig.job_modify

return slurm.SUCCESS
