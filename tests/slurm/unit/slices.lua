-- SPDX-License-Identifier: Apache-2.0
-- The Lua plugins without Slurm: lua5.1 slices.lua FOLDER_OF_SRC_SLURM. Slurm's objects are stood in for by tables that
-- behave as seen in Slurm 22.05: assigning nil to a field raises, unset numbers are NO_VAL.
local source = assert(arg[1], "usage: lua5.1 slices.lua src/slurm")
local slices = assert(loadfile(source .. "/softmig_slices.lua"))()
-- luacheck: globals slurm softmig slurm_job_submit slurm_job_modify slurm_cli_pre_submit
local failures, count = 0, 0

local function show(value)
	if type(value) ~= "table" then
		return tostring(value)
	end
	local out = {}
	for k, v in pairs(value) do
		out[#out + 1] = tostring(k) .. "=" .. show(v)
	end
	table.sort(out)
	return "{" .. table.concat(out, " ") .. "}"
end

local function equal(what, got, expected)
	count = count + 1
	if show(got) ~= show(expected) then
		failures = failures + 1
		io.stderr:write(("FAILED %s\n  expected %s\n  got      %s\n"):format(what, show(expected), show(got)))
	end
end

local function matches(what, got, pattern)
	count = count + 1
	if type(got) ~= "string" or not got:find(pattern) then
		failures = failures + 1
		io.stderr:write(("FAILED %s\n  expected a text like %s\n  got      %s\n"):format(what, pattern, show(got)))
	end
end

-- the table
local TABLE = [[
# comment
l40s 4
h200    8   # eight
a100-pcie_40gb 4

1g.10gb 1
]]
local offered = assert(slices.parse_table(TABLE))
equal("types are listed in order", offered.names, { "l40s", "h200", "a100-pcie_40gb", "1g.10gb" })
equal("shards are numbers", offered.by_type.h200.shards, 8)
matches("a word too many is refused", select(2, slices.parse_table("l40s 4 5")), "line 1")
matches("a missing number is refused", select(2, slices.parse_table("\nl40s")), "line 2")
matches("zero shards are refused", select(2, slices.parse_table("l40s 0")), "line 1")
matches("no number is refused", select(2, slices.parse_table("l40s four")), "line 1")
matches("a type twice is refused", select(2, slices.parse_table("l40s 4\nL40S 2")), "twice")
matches("a type that Slurm could not hold is refused", select(2, slices.parse_table("l40s;rm 4")), "no GPU type")
equal("carriage returns do no harm", slices.parse_table("l40s 4\r\n").by_type.l40s.shards, 4)
matches("a missing file is named", select(2, slices.load_table({ "/nonexistent/softmig.conf" })), "/nonexistent/softmig.conf")

equal("the table is looked for beside the plugin and beside slurm.conf", slices.table_paths("/p/", "/opt/slurm/etc/slurm.conf"),
	{ "/p/softmig.conf", "/opt/slurm/etc/softmig.conf", "/etc/slurm/softmig.conf" })

-- one list
local function translated(list, name)
	return (slices.translate(list, name, offered))
end
local function refused(list, name)
	return select(2, slices.translate(list, name, offered))
end
for request, shards in pairs({
	["gpu:l40s.2:1"] = "shard:l40s:2",
	["gpu:l40s.4:1"] = "shard:l40s:1",
	["gpu:l40s.4"] = "shard:l40s:1",
	["gres:gpu:l40s.2:1"] = "gres:shard:l40s:2",
	["gres:gpu:l40s.2"] = "gres:shard:l40s:2",
	["gres/gpu:l40s.2:1"] = "gres/shard:l40s:2",
	["gres/gpu:l40s.2=1"] = "gres/shard:l40s:2",
	["gpu:h200.8:1"] = "shard:h200:1",
	["gpu:h200.2:1"] = "shard:h200:4",
	["gpu:L40S.2:1"] = "shard:l40s:2",
	["gpu:a100-pcie_40gb.4:1"] = "shard:a100-pcie_40gb:1",
	["gpu:l40s.02:1"] = "shard:l40s:2",
	["gpu:l40s.2:01"] = "shard:l40s:2",
	["gpu:l40s.2:1,gpu:h200.4:1"] = "shard:l40s:2,shard:h200:2",
	["nic:1,gpu:l40s.2:1,license:x"] = "nic:1,shard:l40s:2,license:x",
}) do
	equal(request .. " in shards", translated(request), shards)
end
equal("--gpus leaves out gpu:", translated("l40s.2:1", "gpu"), "shard:l40s:2")
for _, untouched in ipairs({ "gpu:l40s:1", "gpu:2", "gpu", "gpu:l40s", "gpu:1g.10gb:1", "gpu:4g.40gb:1", "gpu:nosuch:1", "mps:50", "none",
	"gres:none", "shard:3", "shard:l40s:4", "shard:h200", "shard", "gres:shard:l40s:1", "gpu:0", "" }) do
	equal(untouched .. " is left alone", translated(untouched), untouched)
end
matches("count 2", refused("gpu:l40s.2:2"), "ask for gpu:l40s.2:1, not gpu:l40s.2:2")
matches("count 0", refused("gpu:l40s.2:0"), "one slice")
matches("count 1K", refused("gpu:l40s.2:1K"), "one slice")
matches("count of letters", refused("gpu:l40s.2:x"), "one slice")
matches("words after the count", refused("gpu:l40s.2:1:l40s.4:1"), "one slice")
matches("words after the shards", refused("shard:l40s:1:4"), "1 or more")
matches("D = 1", refused("gpu:l40s.1:1"), "whole GPU: ask for gpu:l40s:1")
matches("D = 3", refused("gpu:l40s.3:1"), "not offered; slices of this type: gpu:l40s.2, gpu:l40s.4")
matches("D = 0", refused("gpu:l40s.0:1"), "not offered")
matches("D above the shards of a GPU", refused("gpu:l40s.8:1"), "not offered")
matches("D empty", refused("gpu:l40s.:1"), "not offered")
matches("D of letters", refused("gpu:l40s.half:1"), "not offered")
matches("D huge", refused("gpu:l40s.99999999999999999999:1"), "not offered")
matches("unknown type", refused("gpu:v100.2:1"), "'v100' is not offered in slices; types offered: l40s, h200")
matches("shards of an unknown type", refused("shard:v100:1"), "'v100' is not offered")
matches("5 shards of 4", refused("shard:l40s:5"), "more than one GPU: a l40s has 4 shards")
matches("9 shards of 8 at most", refused("shard:9"), "more than one GPU")
matches("no shards", refused("shard:l40s:0"), "1 or more")
matches("a thousand shards", refused("shard:1K"), "1 or more")
matches("the same type twice", refused("gpu:l40s.2:1,gpu:l40s.4:1"), "asks for more")
matches("shards and a slice of the same type", refused("shard:l40s:1,gpu:l40s.4:1"), "asks for more")
matches("untyped shards and a slice", refused("shard:1,gpu:l40s.4:1"), "asks for more")
matches("a slice and untyped shards", refused("gpu:l40s.4:1,shard:1"), "asks for more")
matches("no table: no slices", select(2, slices.translate("gpu:l40s.2:1", nil, nil, "no file")), "tell your administrators: no file")
matches("no table: no shards", select(2, slices.translate("shard:1", nil, nil, "no file")), "tell your administrators: no file")
equal("no table: whole GPUs as ever", (slices.translate("gpu:l40s:2", nil, nil, "no file")), "gpu:l40s:2")

-- the plugin, on a stand-in for Slurm
local NO_VAL, NO_VAL16 = 4294967294, 65534
local said, logged
slurm = { SUCCESS = 0, ERROR = -1 }
function slurm.log_user(format, ...)
	said[#said + 1] = format:format(...)
end
function slurm.log_info() end
function slurm.log_error(format, ...)
	logged[#logged + 1] = format:format(...)
end

local folder = os.tmpname()
os.remove(folder)
assert(os.execute("mkdir -m 700 " .. folder) == 0)
local function install(name, as)
	local from = assert(io.open(source .. "/" .. name)):read("*a")
	local to = assert(io.open(folder .. "/" .. as, "w"))
	to:write(from)
	to:close()
end
install("softmig_slices.lua", "softmig_slices.lua")
install("job_submit_softmig.lua", "job_submit.lua")
install("cli_filter_softmig.lua", "cli_filter.lua")
local file = assert(io.open(folder .. "/softmig.conf", "w"))
file:write(TABLE)
file:close()
said, logged = {}, {}
equal("the plugin loads", assert(loadfile(folder .. "/job_submit.lua"))(), 0)
equal("it complains of nothing", logged, {})

local open = io.open
io.open = function() -- luacheck: ignore
	error("I/O while a job is submitted")
end

local function job(fields)
	local values = { min_nodes = NO_VAL, num_tasks = NO_VAL, ntasks_per_node = NO_VAL16, sockets_per_node = NO_VAL16,
		ntasks_per_tres = NO_VAL16, environment = {} }
	for name, value in pairs(fields) do
		values[name] = value
	end
	local proxy = setmetatable({}, {
		__index = values,
		__newindex = function(_, name, value)
			assert(value ~= nil, "bad argument #3 (string expected, got nil)")
			values[name] = value
		end,
	})
	return proxy, values
end
local function submit(fields, record)
	said, logged = {}, {}
	local proxy, values = job(fields)
	local rc
	if record then
		rc = slurm_job_modify(proxy, record, {}, 0)
	else
		rc = slurm_job_submit(proxy, {}, 0)
	end
	return rc, values
end

for _, field in ipairs({ "tres_per_node", "tres_per_job", "tres_per_task", "tres_per_socket" }) do
	local rc, values = submit({ [field] = "gres:gpu:l40s.4:1" })
	equal(field .. " is accepted", rc, 0)
	equal(field .. " becomes shards per node", values.tres_per_node, "gres:shard:l40s:1")
	if field ~= "tres_per_node" then
		equal(field .. " is cleared", values[field], "")
	end
	rc = submit({ [field] = "gres:gpu:l40s.3:1" })
	equal(field .. ": a third is refused", rc, -1)
	equal(field .. ": in one sentence", #said, 1)
end
local rc, values = submit({ tres_per_job = "gres:gpu:l40s.2:1" })
equal("--gpus asks for one node", { rc, values.min_nodes, values.max_nodes }, { 0, 1, 1 })
equal("--gpus on two nodes is refused", (submit({ tres_per_job = "gres:gpu:l40s.2:1", min_nodes = 2 })), -1)
matches("with a way out", said[1], "use %-%-gpus%-per%-node")
equal("--gpus-per-task, two tasks on one node, is refused", (submit({ tres_per_task = "gres:gpu:l40s.2:1", num_tasks = 2 })), -1)
equal("--gpus-per-task, one task per node, is accepted",
	(submit({ tres_per_task = "gres:gpu:l40s.2:1", num_tasks = 2, ntasks_per_node = 1 })), 0)
equal("--gpus-per-socket with two sockets is refused", (submit({ tres_per_socket = "gres:gpu:l40s.2:1", sockets_per_node = 2 })), -1)
equal("a slice in one option and a GPU in another", (submit({ tres_per_node = "gres:gpu:l40s.2:1", tres_per_job = "gres:gpu:l40s:1" })), -1)
matches("mixed", said[1], "cannot be mixed")
equal("two options with slices", (submit({ tres_per_node = "gres:gpu:l40s.2:1", tres_per_job = "gres:gpu:l40s.2:1" })), -1)
equal("shards in another option than --gres", (submit({ tres_per_task = "gres/shard:l40s:1" })), -1)
matches("with the option to use", said[1], "ask for shards with %-%-gres")
equal("slice and whole in one list", (submit({ tres_per_node = "gres:gpu:l40s.2:1,gres:gpu:l40s:1" })), -1)
equal("cpus per GPU", (submit({ tres_per_node = "gres:gpu:l40s.2:1", cpus_per_tres = "gres:gpu:8" })), -1)
equal("cpus per whole GPU", (submit({ tres_per_node = "gres:gpu:l40s:1", cpus_per_tres = "gres:gpu:8" })), 0)
equal("no GPU at all", (submit({})), 0)
rc, values = submit({ tres_per_node = "gres:gpu:l40s:2" })
equal("whole GPUs are untouched", { rc, values.tres_per_node }, { 0, "gres:gpu:l40s:2" })
rc, values = submit({ tres_per_job = "gres:gpu:l40s.2:1", script = "#!/bin/sh", environment = { SLURM_GPUS = "l40s.2:1", PATH = "/bin" } })
equal("an inner srun does not meet the old name", { rc, values.environment }, { 0, { SLURM_GPUS = "", PATH = "/bin" } })

-- Slurm 24.11 (recorded): what --gpus-per-task and --cpus-per-task of sbatch make of the job and of its environment
rc, values = submit({ tres_per_task = "cpu=2,gres/gpu:l40s.2=1", tres_bind = "gres/gpu:per_task:1", num_tasks = 1, script = "#!/bin/sh",
	environment = { SLURM_TRES_PER_TASK = "cpu=2,gres/gpu:l40s.2=1", SLURM_TRES_BIND = "gres/gpu:per_task:1", SLURM_CPUS_PER_TASK = "2" } })
equal("24.11: the slice moves, the CPUs of a task stay", { rc, values.tres_per_node, values.tres_per_task, values.tres_bind },
	{ 0, "gres/shard:l40s:2", "cpu=2", "" })
equal("24.11: and an inner srun does not meet the old name", values.environment,
	{ SLURM_TRES_PER_TASK = "cpu=2", SLURM_TRES_BIND = "", SLURM_CPUS_PER_TASK = "2" })
rc, values = submit({ tres_per_task = "gres/gpu:l40s.2=1", num_tasks = 1, script = "#!/bin/sh",
	environment = { SLURM_TRES_PER_TASK = "gres/gpu:l40s.2=1" } })
equal("24.11: without CPUs", { rc, values.tres_per_node, values.tres_per_task, values.environment.SLURM_TRES_PER_TASK },
	{ 0, "gres/shard:l40s:2", "", "" })
rc, values = submit({ tres_per_task = "cpu=2", tres_per_node = "gres/gpu:l40s.4:1", script = "#!/bin/sh",
	environment = { SLURM_TRES_PER_TASK = "cpu=2" } })
equal("24.11: CPUs per task beside --gres stay", { rc, values.tres_per_node, values.tres_per_task, values.environment.SLURM_TRES_PER_TASK },
	{ 0, "gres/shard:l40s:1", "cpu=2", "cpu=2" })
rc, values = submit({ tres_per_task = "cpu=2,gres/gpu:l40s=1", tres_bind = "gres/gpu:per_task:1" })
equal("24.11: whole GPUs are untouched", { rc, values.tres_per_node, values.tres_per_task, values.tres_bind },
	{ 0, nil, "cpu=2,gres/gpu:l40s=1", "gres/gpu:per_task:1" })

-- changes of a pending job
rc, values = submit({ tres_per_node = "gres:gpu:h200.2:1" }, { tres_per_node = "gres:shard:l40s:2", min_nodes = 1 })
equal("a change is translated", { rc, values.tres_per_node }, { 0, "gres:shard:h200:4" })
equal("a change is judged", (submit({ tres_per_node = "gres:gpu:h200.3:1" }, { min_nodes = 1 })), -1)
equal("a change to slices of a job with --gpus of whole ones", (submit({ tres_per_node = "gres:gpu:h200.2:1" },
	{ tres_per_job = "gres:gpu:h200:1" })), -1)
equal("other changes pass", (submit({ time_limit = 5 }, { tres_per_node = "gres:shard:l40s:2", tres_per_job = "gres:gpu:l40s:1" })), 0)

-- a requeued job, which Slurm starts without its prolog when somebody makes it start before the time that Slurm gave it
local function again(changes, kind)
	return (submit(changes, { tres_per_node = kind or "gres:shard:l40s:2", restart_cnt = 1 }))
end
equal("a requeued slice's start is not changed", again({ begin_time = 2000000000 }), -1)
matches("and the user is told what to do", said[1], "hold it to put it off")
equal("nor by changing the request in the same breath", again({ begin_time = 2000000000, tres_per_node = "gres:gpu:l40s.4:1" }), -1)
equal("other changes of it pass", again({ time_limit = 5, begin_time = 0 }), 0)
equal("its slice may be changed", again({ tres_per_node = "gres:gpu:l40s.4:1" }), 0)
equal("a requeued whole GPU may be started early", again({ begin_time = 2000000000 }, "gres:gpu:l40s:1"), 0)
equal("and so may a requeued job without", again({ begin_time = 2000000000 }, ""), 0)
equal("but does not become a slice after that", again({ tres_per_node = "gres:gpu:l40s.4:1" }, "gres:gpu:l40s:1"), -1)
matches("and the user is told what to do", said[1], "submit it again")
equal("in Slurm's own words neither", again({ tres_per_node = "gres:shard:l40s:1" }, "gres:gpu:l40s:1"), -1)
equal("a job that ran only once may be started early", (submit({ begin_time = 2000000000 },
	{ tres_per_node = "gres:shard:l40s:2", restart_cnt = 0 })), 0)

-- fail closed
local broken = setmetatable({}, { __index = function() error("broken field") end })
said, logged = {}, {}
equal("an error of our own refuses the job", slurm_job_submit(broken, {}, 0), -1)
matches("the user is told", said[1], "could not be checked")
matches("the log says why", logged[1], "broken field")
local log_user = slurm.log_user
slurm.log_user = function() error("log") end
equal("even when Slurm's log fails", slurm_job_submit(broken, {}, 0), -1)
slurm.log_user = log_user
io.open = open -- luacheck: ignore

-- the client's filter
equal("the filter loads", assert(loadfile(folder .. "/cli_filter.lua"))(), 0)
local function filter(options)
	said, logged = {}, {}
	local result = slurm_cli_pre_submit(options, 0)
	return result, options
end
local UNSET = { gpus = "unset", ["gpus-per-task"] = "unset", nodes = "1", ntasks = "1", ["ntasks-per-node"] = "-2", gres = "unset" }
local function options(changes)
	local all = {}
	for name, value in pairs(UNSET) do
		all[name] = value
	end
	for name, value in pairs(changes) do
		all[name] = value
	end
	return all
end
equal("srun --gres", select(2, filter(options({ gres = "gpu:l40s.2:1" }))).gres, "shard:l40s:2")
for _, name in ipairs({ "gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket" }) do
	local _, after = filter(options({ [name] = "l40s.4" }))
	equal("srun --" .. name, { after.gres, after[name] }, { "shard:l40s:1", "" })
end
local result, after = filter(options({ gpus = "l40s:1" }))
equal("srun --gpus of a whole GPU is untouched", { result, after.gpus, after.gres }, { 0, "l40s:1", "unset" })
equal("srun refuses a third", (filter(options({ gres = "gpu:l40s.3:1" }))), -1)
matches("and says so", logged[1], "not offered")
equal("srun refuses a mixture", (filter(options({ gres = "gpu:l40s.2:1", ["gpus-per-node"] = "l40s:1" }))), -1)
equal("srun --cpus-per-gpu with a slice", (filter(options({ gres = "gpu:l40s.2:1", ["cpus-per-gpu"] = "2" }))), -1)

os.execute("rm -r " .. folder)
print(("%d checks, %d failed"):format(count, failures))
os.exit(failures == 0 and 0 or 1)
