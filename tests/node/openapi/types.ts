// What a front-end developer finds in the types that openapi-typescript makes. It has to compile, no more.
import createClient from 'openapi-fetch';
import type { components, paths } from './schema';

type Schemas = components['schemas'];
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
type Status = 'queued' | 'running' | 'completed' | 'failed' | 'cancelled';

export const run: {
    status: Same<Schemas['Run']['status'], Status>;
    error: Same<Schemas['Run']['error'], Schemas['RunError'] | null>;
    triggerPayload: Same<Schemas['Run']['triggerPayload'], Record<string, unknown> | null>;
    startedAt: Same<Schemas['Run']['startedAt'], string | null>;
    durationMs: Same<Schemas['Run']['durationMs'], number | null>;
    attempt: Same<Schemas['Run']['attempt'], number>;
    waitingFor: Same<Schemas['Run']['waitingFor'], Schemas['WaitingFor'][] | null>;
    asked: Same<Schemas['WaitingFor']['value'], unknown>;
} = {
    status: true, error: true, triggerPayload: true, startedAt: true, durationMs: true, attempt: true,
    waitingFor: true, asked: true,
};

export const step: {
    status: Same<Schemas['RunStep']['status'], 'pending' | 'running' | 'completed' | 'failed' | 'skipped'>;
    cacheHit: Same<Schemas['RunStep']['cacheHit'], boolean>;
    outputArtifactIds: Same<Schemas['RunStep']['outputArtifactIds'], string[] | null>;
} = { status: true, cacheHit: true, outputArtifactIds: true };

export const page: {
    total: Same<Schemas['ListCampaignRunsResponse']['total'], number>;
    nextPageToken: Same<Schemas['ListCampaignRunsResponse']['nextPageToken'], string | null>;
} = { total: true, nextPageToken: true };

const client = createClient<paths>({ baseUrl: 'http://127.0.0.1:8080', headers: { authorization: 'Bearer …' } });

export async function launch(): Promise<Schemas['Run']> {
    const campaign = await client.POST('/campaigns');
    const bare: Schemas['TriggerRunRequest'] = { workflowName: 'campaign-bundle' };
    const { data, error } = await client.POST('/runs', {
        params: { header: { 'Idempotency-Key': 'one' } },
        body: { ...bare, triggerPayload: { n: 5, deep: [{ a: null }] }, context: { campaignId: campaign.data?.id } },
    });
    if (error) {
        const reasons: string[] = [error.reason, ...(error.violations ?? []).map((each) => each.field)];
        throw new Error(reasons.join());
    }
    await client.GET('/campaigns/{campaignId}/runs', {
        params: { path: { campaignId: data.id }, query: { status: ['failed', 'cancelled'], limit: 1 } },
    });
    const { data: resumed } = await client.POST('/runs/{runId}/resume', {
        params: { path: { runId: data.id } }, body: { value: { approved: true } },
    });
    await client.POST('/runs/{runId}/resume', {
        params: { path: { runId: resumed?.id ?? '' } }, body: { values: { a: null } },
    });
    await client.GET('/artifacts/{artifactId}', { params: { path: { artifactId: data.id } }, parseAs: 'blob' });
    return data;
}
