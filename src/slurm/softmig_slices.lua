-- SPDX-License-Identifier: Apache-2.0
-- What a request for a slice means in shards. Owns: the table of offered types, the grammar of gres requests, every
-- refusal's sentence. Must never: touch Slurm's objects, do I/O after loading, raise an error on what a user typed.
-- Loaded by job_submit_softmig.lua and cli_filter_softmig.lua; Lua 5.1 and later.
local M = {}

-- The table: one line per GPU type, "TYPE SHARDS_PER_GPU", '#' starts a comment. The prolog reads the same file.
-- Returns { names = {"l40s", ...}, by_type = { l40s = { name = "l40s", shards = 4 } } }, or nil and what is wrong.
function M.parse_table(text)
	local offered = { names = {}, by_type = {} }
	local number = 0
	for line in (text .. "\n"):gmatch("(.-)\r?\n") do
		number = number + 1
		local words = {}
		for word in line:gsub("#.*", ""):gmatch("%S+") do
			words[#words + 1] = word
		end
		if #words > 0 then
			local name, shards = words[1], words[2]
			if #words ~= 2 or not shards:match("^%d+$") or tonumber(shards) < 1 or tonumber(shards) > 100 then
				return nil, "line " .. number .. ": expected TYPE and shards per GPU (1 to 100)"
			elseif not name:match("^[%w_.%-]+$") then
				return nil, "line " .. number .. ": '" .. name .. "' is no GPU type"
			elseif offered.by_type[name:lower()] then
				return nil, "line " .. number .. ": " .. name .. " is listed twice"
			end
			offered.names[#offered.names + 1] = name
			offered.by_type[name:lower()] = { name = name, shards = tonumber(shards) }
		end
	end
	return offered
end

-- Where the table may lie: beside the plugin, beside slurm.conf (which Slurm's daemons and clients are told by SLURM_CONF where it is
-- not in its usual place).
function M.table_paths(here, slurm_conf)
	local paths = { here .. "softmig.conf" }
	if slurm_conf and slurm_conf:match("^/.*/") then
		paths[#paths + 1] = slurm_conf:match("^/.*/") .. "softmig.conf"
	end
	paths[#paths + 1] = "/etc/slurm/softmig.conf"
	return paths
end

-- Reads the table from the first of paths that can be opened. Called while Slurm loads the plugin, never later.
function M.load_table(paths)
	for _, path in ipairs(paths) do
		local file = io.open(path, "r")
		if file then
			local text = file:read("*a")
			file:close()
			local offered, problem = M.parse_table(text or "")
			return offered, problem and (path .. ", " .. problem)
		end
	end
	return nil, "no table of slices (" .. table.concat(paths, ", ") .. ")"
end

-- "gres:gpu:l40s.2:1" into { prefix = "gres:", name = "gpu", type = "l40s.2", count = "1" }. Both of Slurm's prefixes
-- (22.05 "gres:", 23.11 "gres/") and both separators of the count are understood.
local function parse_item(item, name)
	local parsed = { text = item, prefix = item:match("^gres[:/]") or "" }
	local words = {}
	for word in item:sub(#parsed.prefix + 1):gmatch("[^:=]+") do
		words[#words + 1] = word
	end
	if name then
		table.insert(words, 1, name)
	end
	parsed.name = words[1]
	if #words == 2 and words[2]:match("^%d+[kKmMgGtTpP]?$") then
		parsed.count = words[2]
	else
		parsed.type, parsed.count = words[2], words[3] and table.concat(words, ":", 3) -- with whatever follows: no number, then
	end
	return parsed
end

local function slices_of(entry)
	local names = {}
	for divisor = 2, entry.shards do
		if entry.shards % divisor == 0 then
			names[#names + 1] = "gpu:" .. entry.name .. "." .. divisor
		end
	end
	return #names > 0 and table.concat(names, ", ") or "none"
end

local function offered_types(offered)
	return #offered.names > 0 and table.concat(offered.names, ", ") or "none"
end

-- Is this GPU type a slice's name? Returns the base type and what follows the dot, or nil for a whole GPU's type. A dot in
-- a type that is offered as it stands ("1g.10gb") does not make a slice; after an offered base type it always does.
local function split_slice(kind, offered)
	if not kind or (offered and offered.by_type[kind:lower()]) then
		return nil
	end
	local base, divisor = kind:match("^(.+)%.([^.]*)$")
	if base and (divisor:match("^%d+$") or (offered and offered.by_type[base:lower()])) then
		return base, divisor
	end
	return nil
end

-- Shards for one "gpu:TYPE.D" item: the replacing item's text, or nil and the refusal.
local function translate_slice(item, base, divisor, offered)
	local entry = offered.by_type[base:lower()]
	if not entry then
		return nil, "GPU type '" .. base .. "' is not offered in slices; types offered: " .. offered_types(offered)
	end
	local asked = "gpu:" .. item.type
	local parts = divisor:match("^%d+$") and tonumber(divisor)
	if parts == 1 then
		return nil, asked .. " is a whole GPU: ask for gpu:" .. entry.name .. ":1"
	elseif not parts or parts < 1 or entry.shards % parts ~= 0 then
		return nil, asked .. " is not offered; slices of this type: " .. slices_of(entry)
	elseif item.count and tonumber(item.count) ~= 1 then
		return nil, "a job has one slice per GPU type and node: ask for " .. asked .. ":1, not " .. asked .. ":" .. item.count
	end
	return item.prefix .. "shard:" .. entry.name .. ":" .. math.floor(entry.shards / parts), nil, entry.name:lower()
end

-- A direct "shard:..." item: nil, or the refusal.
local function check_shards(item, offered)
	local asked = item.text:gsub("^gres[:/]", "")
	local count = item.count == nil and 1 or (item.count:match("^%d+$") and tonumber(item.count))
	if not count or count < 1 then
		return "'" .. asked .. "': the number of shards must be 1 or more"
	end
	local most, of = 0, "a GPU"
	if item.type then
		local entry = offered.by_type[item.type:lower()]
		if not entry then
			return "GPU type '" .. item.type .. "' is not offered in shards; types offered: " .. offered_types(offered)
		end
		most, of = entry.shards, "a " .. entry.name
	else
		for _, entry in pairs(offered.by_type) do
			most = math.max(most, entry.shards)
		end
	end
	if count > most then
		return "'" .. asked .. "' is more than one GPU: " .. of .. " has " .. most .. " shards, and a slice never spans GPUs"
	end
	return nil
end

-- Translates one list of items. name: "gpu" for lists that leave it out (the client's --gpus). Returns the new list and what it
-- holds { slices, whole, shards = how many items; moved, rest = the new list's shards, and its other items }, or nil and the refusal.
-- problem: why there is no table.
function M.translate(list, name, offered, problem)
	local out, holds, seen = {}, { slices = 0, whole = 0, shards = 0 }, {}
	local moved, rest = {}, {}
	for text in (list or ""):gmatch("[^,]+") do
		local item = parse_item(text, name)
		local sharded
		if item.name == "gpu" then
			local base, divisor = split_slice(item.type, offered)
			if base then
				if not offered then
					return nil, "slices cannot be given out now, please tell your administrators: " .. problem
				end
				local refusal
				text, refusal, sharded = translate_slice(item, base, divisor, offered)
				if not text then
					return nil, refusal
				end
				holds.slices = holds.slices + 1
			elseif item.count and item.count:match("^0+$") then
				item.name = nil -- "gpu:0" asks for nothing
			else
				holds.whole = holds.whole + 1
			end
		elseif item.name == "shard" then
			if not offered then
				return nil, "slices cannot be given out now, please tell your administrators: " .. problem
			end
			local refusal = check_shards(item, offered)
			if refusal then
				return nil, refusal
			end
			holds.shards, sharded = holds.shards + 1, (item.type or "*"):lower()
		end
		if sharded then
			if seen[sharded] or (sharded == "*" and next(seen)) or seen["*"] then
				return nil, "a job has one slice per GPU type and node, '" .. list:gsub("gres[:/]", "") .. "' asks for more"
			end
			seen[sharded] = true
		end
		out[#out + 1] = text
		local part = sharded and moved or rest
		part[#part + 1] = text
	end
	holds.moved, holds.rest = table.concat(moved, ","), table.concat(rest, ",")
	return table.concat(out, ","), holds
end

-- The list without its GPUs: newer Slurm also lists a task's CPUs there.
function M.without_gpus(list)
	local rest = {}
	for text in list:gmatch("[^,]+") do
		if parse_item(text).name ~= "gpu" then
			rest[#rest + 1] = text
		end
	end
	return table.concat(rest, ",")
end

local function given(number)
	return number ~= nil and number > 0
end

-- Does a per-node list hold shards?
function M.has_shards(list)
	for text in (list or ""):gmatch("[^,]+") do
		if parse_item(text).name == "shard" then
			return true
		end
	end
	return false
end

-- Judges a whole request. ask holds the lists node, job, task, socket (nil where not given; plain: they leave out "gpu:") and
-- the numbers nodes, tasks, tasks_per_node, sockets and the lists cpus_per_gpu, mem_per_gpu, tasks_per_gpu.
-- Returns false (leave the request alone), or true and { node = list, leave = { task = what stays of the list, ... }, one_node = bool },
-- or nil and the refusal.
function M.judge(ask, offered, problem)
	local lists, sum = {}, { slices = 0, whole = 0, shards = 0, lists = 0 }
	for _, field in ipairs({ "node", "job", "task", "socket" }) do
		local list = ask[field]
		if list and list ~= "" then
			local out, holds = M.translate(list, ask.plain and ask.plain[field] and "gpu", offered, problem)
			if not out then
				return nil, holds
			end
			if holds.shards > 0 and field ~= "node" then
				return nil, "shards are given per node: ask for shards with --gres"
			end
			lists[field] = { out = out, slices = holds.slices, moved = holds.moved, rest = holds.rest }
			sum.slices, sum.whole = sum.slices + holds.slices, sum.whole + holds.whole
			sum.shards = sum.shards + holds.shards
			sum.lists = sum.lists + (holds.slices + holds.shards > 0 and 1 or 0)
		end
	end
	if sum.slices + sum.shards == 0 then
		return false
	elseif sum.whole > 0 then
		return nil, "a slice and a whole GPU cannot be mixed in one job; ask for one kind, or use a heterogeneous job"
	elseif sum.lists > 1 then
		return nil, "a slice is asked for in several options; one of --gres, --gpus, --gpus-per-node, ... is enough"
	elseif ask.cpus_per_gpu or ask.mem_per_gpu or ask.tasks_per_gpu then
		return nil, "--cpus-per-gpu, --mem-per-gpu and --ntasks-per-gpu count whole GPUs; with a slice use --cpus-per-task, --mem and --ntasks"
	elseif sum.slices == 0 then
		return false
	end
	local change = { node = lists.node and lists.node.out, leave = {}, one_node = false }
	if lists.job and lists.job.slices > 0 then
		if given(ask.nodes) and ask.nodes > 1 then
			return nil, "--gpus asks for one slice in all, but the job has " .. ask.nodes .. " nodes: use --gpus-per-node"
		end
		change.one_node = true
	elseif lists.task and lists.task.slices > 0 then
		local one_each = ask.tasks_per_node == 1 or (ask.tasks or 1) <= 1 or (given(ask.nodes) and ask.nodes >= ask.tasks)
		if not one_each then
			return nil, "--gpus-per-task with a slice needs --ntasks-per-node=1: a job has one slice per node, which its tasks there share"
		end
	elseif lists.socket and lists.socket.slices > 0 then
		if given(ask.sockets) and ask.sockets > 1 then
			return nil, "--gpus-per-socket with a slice needs --sockets-per-node=1: a job has one slice per node"
		end
	end
	for _, field in ipairs({ "job", "task", "socket" }) do
		if lists[field] and lists[field].slices > 0 then
			change.node = (change.node and change.node .. "," or "") .. lists[field].moved
			change.leave[field] = lists[field].rest
		end
	end
	return true, change
end

return M
