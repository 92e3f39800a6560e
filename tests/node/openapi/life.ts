// The full life of a run, through what @hey-api/openapi-ts makes of the document. Prints the bundle in hex.
import {
    cancelRun,
    createCampaign,
    downloadArtifact,
    getCampaign,
    getRun,
    listCampaignRuns,
    listRunEvents,
    listRunSteps,
    resumeRun,
    retryRun,
    triggerRun,
    type Problem,
    type Run,
    type RunError,
    type WaitingFor,
} from './client';
import { client } from './client/client.gen';

declare const process: { argv: string[]; exitCode: number };

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
export const types: {
    status: Same<Run['status'], 'queued' | 'running' | 'completed' | 'failed' | 'cancelled'>;
    error: Same<Run['error'], RunError | null>;
    triggerPayload: Same<Run['triggerPayload'], Record<string, unknown> | null>;
    durationMs: Same<Run['durationMs'], number | null>;
    waitingFor: Same<Run['waitingFor'], Array<WaitingFor> | null>;
    asked: Same<WaitingFor['value'], unknown>;
} = { status: true, error: true, triggerPayload: true, durationMs: true, waitingFor: true, asked: true };

const [, , baseUrl, token] = process.argv;
client.setConfig({ baseUrl: baseUrl as `${string}://${string}`, auth: () => token });

function same(found: unknown, wanted: unknown): void {
    const [a, b] = [JSON.stringify(found), JSON.stringify(wanted)];
    if (a !== b) throw new Error(`${a} is not ${b}`);
}

function refused(answer: { error?: Problem; response?: Response }, status: number, reason: string): Problem {
    const { error } = answer;
    if (!error) throw new Error(`no ${reason}`);
    same([answer.response?.status, error.status, error.reason], [status, status, reason]);
    return error;
}

async function completed(runId: string): Promise<Run> {
    for (let left = 600; left > 0; left--) {
        const { data } = await getRun({ path: { runId }, throwOnError: true });
        if (data.status === 'completed') return data;
        if (data.status === 'failed') throw new Error(data.error?.message);
        await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error('not completed');
}

async function live(): Promise<string> {
    const { data: campaign } = await createCampaign({ throwOnError: true });
    same([campaign.status, campaign.bundleUrl, campaign.latestRunId], ['draft', null, null]);
    const context = { campaignId: campaign.id };

    const payload = { product: { name: 'Kettle' }, audience: 'campers', channels: ['email'], tone: 'plain',
        offer: '20 % off', locale: 'en', paceSeconds: 0, n: 5, nested: { list: [1, 2.5, 'ü', null, true, { a: [] }] } };
    const { data: run } = await triggerRun({
        body: { workflowName: 'campaign-bundle', triggerPayload: payload, context, priority: 7 },
        headers: { 'Idempotency-Key': 'first' },
        throwOnError: true,
    });
    same([run.status, run.attempt, run.priority], ['queued', 1, 7]);
    same(run.triggerPayload?.n, 5);
    same(run.triggerPayload?.nested, payload.nested);
    const done = await completed(run.id);
    same([done.error, typeof done.durationMs], [null, 'number']);

    const { data: steps } = await listRunSteps({ path: { runId: run.id }, throwOnError: true });
    same([...new Set(steps.steps.map((step) => step.status))], ['completed']);
    const { data: timeline } = await listRunEvents({ path: { runId: run.id }, throwOnError: true });
    same(timeline.events.map((event) => event.toStatus), ['queued', 'running', 'completed']);
    same(timeline.events[0].fromStatus, null);

    const { data: idle } = await triggerRun({
        body: { workflowName: 'unserved', triggerPayload: null, context }, throwOnError: true });
    const { data: cancelled } = await cancelRun({ path: { runId: idle.id }, throwOnError: true });
    same([cancelled.status, cancelled.triggerPayload], ['cancelled', null]);
    const { data: again } = await retryRun({ path: { runId: idle.id }, throwOnError: true });
    same([again.status, again.attempt], ['queued', 2]);

    const path = { campaignId: campaign.id };
    const { data: first } = await listCampaignRuns({ path, query: { limit: 1 }, throwOnError: true });
    same([first.runs.map((each) => each.id), first.total], [[idle.id], 2]);
    const { data: second } = await listCampaignRuns({
        path, query: { limit: 1, pageToken: first.nextPageToken ?? '' }, throwOnError: true });
    same([second.runs.map((each) => each.id), second.nextPageToken], [[run.id], null]);
    const { data: filtered } = await listCampaignRuns({
        path, query: { status: ['completed', 'failed'] }, throwOnError: true });
    same([filtered.runs.map((each) => each.id), filtered.total], [[run.id], 1]);
    same(filtered.statusCounts, { queued: 1, running: 0, completed: 1, failed: 0, cancelled: 0 });

    const nobody = '0198d6a2-7c1e-7b53-9f4e-3d2c1b0a9f8e';
    refused(await getRun({ path: { runId: nobody } }), 404, 'RUN_NOT_FOUND');
    const conflict = refused(await retryRun({ path: { runId: run.id } }), 409, 'RUN_NOT_RETRYABLE');
    same(conflict.metadata.status, 'completed');
    same(done.waitingFor, null);
    for (const body of [{ value: null }, { value: { approved: [true] } }, { values: { a: null } }]) {
        refused(await resumeRun({ path: { runId: run.id }, body }), 409, 'RUN_NOT_WAITING');
    }
    const malformed = refused(await triggerRun({ body: { workflowName: '' } }), 400, 'INVALID_ARGUMENT');
    same(malformed.violations?.map((each) => each.field), ['workflowName']);

    const { data: now } = await getCampaign({ path, throwOnError: true });
    same([now.status, now.latestRunId], ['live', run.id]);
    const artifactId = now.bundleUrl?.split('/').pop() ?? '';
    const { data: bundle } = await downloadArtifact({ path: { artifactId }, throwOnError: true });
    const bytes = new Uint8Array(await bundle.arrayBuffer());
    return JSON.stringify({ artifactId, bundle: [...bytes].map((each) => each.toString(16).padStart(2, '0')).join('') });
}

live().then(console.log, (error) => {
    console.error(error);
    process.exitCode = 1;
});
