-- SPDX-License-Identifier: Apache-2.0
-- Slurm's cli_filter plugin of SoftMig: the same translation in the client, for plain srun, whose step would otherwise ask
-- for the slice by a name that the allocation no longer has. Owns: the client's options. Must never: be relied on for
-- enforcement (users may bypass it; job_submit_softmig.lua judges everything again).
--
-- Alone: install it as cli_filter.lua beside slurm.conf, with CliFilterPlugins=lua. In a site's own cli_filter.lua:
--     dofile("/etc/slurm/cli_filter_softmig.lua")
-- and call softmig.cli_pre_submit(options, pack_offset) first in slurm_cli_pre_submit.
-- luacheck: globals slurm softmig slurm_cli_setup_defaults slurm_cli_pre_submit slurm_cli_post_submit
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

local OPTIONS = { job = "gpus", task = "gpus-per-task", socket = "gpus-per-socket" }

-- An option as Slurm's clients report it: some are nil when not given, others "unset", "0", "-1" or "-2".
local function text(value)
	if value and value ~= "" and value ~= "unset" and value ~= "(null)" then
		return value
	end
	return nil
end

local function number(value)
	value = tonumber((tostring(value or "")):match("^(%d+)"))
	if value and value > 0 and value < 65534 then
		return value
	end
	return nil
end

local function apply(options)
	local ask = { plain = { job = true, task = true, socket = true } }
	for field, name in pairs(OPTIONS) do
		ask[field] = text(options[name])
	end
	local gres, per_node = text(options["gres"]), text(options["gpus-per-node"])
	if per_node then -- the same thing as --gres, spelled without "gpu:"
		per_node = per_node:gsub("[^,]+", "gpu:%0")
	end
	ask.node = gres and per_node and (gres .. "," .. per_node) or gres or per_node
	if not (ask.node or ask.job or ask.task or ask.socket) then
		return slurm.SUCCESS
	end
	ask.nodes = number(options["nodes"])
	ask.tasks = number(options["ntasks"])
	ask.tasks_per_node = number(options["ntasks-per-node"])
	ask.sockets = number(options["sockets-per-node"])
	ask.cpus_per_gpu = number(options["cpus-per-gpu"])
	ask.mem_per_gpu = number(options["mem-per-gpu"])
	ask.tasks_per_gpu = number(options["ntasks-per-gpu"])
	local sliced, change = slices.judge(ask, offered, problem)
	if sliced == nil then
		slurm.log_error("softmig: %s", change)
		return slurm.ERROR
	elseif not sliced then
		return slurm.SUCCESS
	end
	for field, rest in pairs(change.leave) do
		options[OPTIONS[field]] = rest
	end
	if per_node then
		options["gpus-per-node"] = ""
	end
	options["gres"] = change.node
	if change.one_node and not ask.nodes then
		options["nodes"] = "1"
	end
	return slurm.SUCCESS
end

softmig = softmig or {}

function softmig.cli_pre_submit(options, _)
	local fine, rc = pcall(apply, options)
	if fine then
		return rc
	end
	slurm.log_error("softmig: cli_filter failed: %s", tostring(rc))
	return slurm.ERROR
end

function slurm_cli_setup_defaults(_, _)
	return slurm.SUCCESS
end

slurm_cli_pre_submit = softmig.cli_pre_submit

function slurm_cli_post_submit(_, _, _)
	return slurm.SUCCESS
end

return slurm.SUCCESS
