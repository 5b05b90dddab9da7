-- SPDX-License-Identifier: Apache-2.0
-- A site's own job_submit.lua that uses SoftMig's. Lies beside slurm.conf, with softmig.conf.
-- luacheck: globals slurm softmig slurm_job_submit slurm_job_modify
dofile("/usr/share/softmig/slurm/job_submit_softmig.lua")

function slurm_job_submit(job_desc, part_list, submit_uid)
	local rc = softmig.job_submit(job_desc, part_list, submit_uid)
	if rc ~= slurm.SUCCESS then
		return rc
	end
	-- the site's own rules: an error in them accepts the job (Slurm's habit), with its slices already translated
	return slurm.SUCCESS
end

function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
	return softmig.job_modify(job_desc, job_rec, part_list, modify_uid)
end

return slurm.SUCCESS
